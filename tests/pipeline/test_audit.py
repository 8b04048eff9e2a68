import json

import numpy as np
import pytest

from rephase.pipeline.audit import audit_volume
from rephase.readers.volume import Volume


def volume_with(**acquisition):
    return Volume(
        magnitude=np.ones((2, 256, 192), np.float32),
        spacing_mm=(5.0, 1.0, 1.0),
        affine=((1.0, 0.0, 0.0, 0.0),) * 4,
        orientation="SPL",
        transposed=False,
        phase_encode="assumed",
        source_sha256="0" * 64,
        acquisition=acquisition,
    )


def test_nothing_known_gives_no_flags():
    assert audit_volume(volume_with()) == {}
    assert audit_volume(volume_with(acquired_matrix=None, image_type=None, transfer_syntax=None)) == {}


@pytest.mark.parametrize(
    ("acquired", "flagged"),
    [([256, 192], False), ([256, 191], True), ([128, 192], True), ([300, 200], False), ([0, 0], False)],
)
def test_a_stored_matrix_larger_than_the_acquired_one(acquired, flagged):
    flags = audit_volume(volume_with(acquired_matrix=acquired))
    assert flags == ({"interpolated": {"stored": [256, 192], "acquired": acquired}} if flagged else {})


@pytest.mark.parametrize(
    ("image_type", "words"),
    [
        (["ORIGINAL", "PRIMARY", "M", "ND"], None),
        (["ORIGINAL", "PRIMARY", "M", "NORM", "DIS2D"], ["DIS2D", "NORM"]),
        ("ORIGINAL\\PRIMARY\\M\\ND\\NORM\\FM3_2\\FIL", ["FIL", "FM3_2", "NORM"]),
        (["ORIGINAL", "PRIMARY", "M_FFE", "M", "FFE"], None),
        (["ORIGINAL", "PRIMARY", "M", "dis3d"], ["DIS3D"]),
        (["DERIVED", "SECONDARY", "MPR"], ["MPR"]),
        (["ORIGINAL", "FMRI", "FILM", "NORMAL"], None),
    ],
)
def test_words_of_image_type_that_name_a_filter(image_type, words):
    assert audit_volume(volume_with(image_type=image_type)).get("filtered") == words


@pytest.mark.parametrize(
    ("facts", "name"),
    [
        ({"transfer_syntax": "ExplicitVRLittleEndian"}, None),
        ({"transfer_syntax": "1.2.840.10008.1.2.4.80"}, None),
        ({"transfer_syntax": "JPEGLosslessSV1", "lossy_compression": False}, None),
        ({"transfer_syntax": "1.2.840.10008.1.2.4.51"}, "JPEGExtended12Bit"),
        ({"transfer_syntax": "JPEGBaseline8Bit", "lossy_compression": False}, "JPEGBaseline8Bit"),
        ({"transfer_syntax": "JPEG2000", "lossy_compression": False}, None),
        ({"transfer_syntax": "JPEG2000", "lossy_compression": True}, "JPEG2000"),
        ({"transfer_syntax": "JPEG2000"}, "JPEG2000"),
        ({"transfer_syntax": "ExplicitVRLittleEndian", "lossy_compression": True}, "declared by the header"),
    ],
)
def test_lossy_compression(facts, name):
    assert audit_volume(volume_with(**facts)).get("lossy") == name


def test_clipped_negatives_are_noted_and_flags_are_json():
    flags = audit_volume(volume_with(acquired_matrix=[64, 64], image_type=("M", "NORM")), {"count": 3, "min": -1.5})
    assert flags["clipped_negatives"] == {"count": 3, "min": -1.5}
    assert json.loads(json.dumps(flags)) == flags
