import json
from dataclasses import replace

import numpy as np
import pytest

from rephase.pipeline.audit import acquired_box, audit_acquisition, audit_volume
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


@pytest.mark.parametrize(
    ("facts", "flags"),
    [
        ({"parallel_reduction": 2.0}, {"parallel_imaging": {"factor": 2.0}}),
        ({"parallel_reduction": 1.0, "partial_fourier": "NO"}, {}),
        ({"partial_fourier": "YES"}, {"partial_fourier": {"words": ["YES"]}}),
        ({"scan_options": "PFP"}, {"partial_fourier": {"words": ["PFP"]}}),
        ({"scan_options": ["FAST_GEMS", "ARC_GEMS"]}, {"parallel_imaging": {"words": ["ARC_GEMS"]}}),
        ({"image_type": ["ORIGINAL", "PRIMARY", "M", "DRB"]}, {"learned_reconstruction": {"words": ["DRB"]}}),
        ({"image_type": "ORIGINAL\\PRIMARY\\CS_SENSE"}, {"compressed_sensing": {"words": ["CS_SENSE"]}}),
    ],
)
def test_reconstructions_that_compute_a_part_of_kspace(facts, flags):
    assert audit_acquisition(volume_with(**facts)) == flags


def test_the_grid_of_a_template():
    template = replace(volume_with(), magnitude=np.ones((91, 109, 91), np.float32), spacing_mm=(2.0, 2.0, 2.0))
    assert "template_grid" in audit_acquisition(template)
    assert audit_acquisition(replace(template, spacing_mm=(2.0, 1.0, 2.0))) == {}


@pytest.mark.parametrize(
    ("header", "values", "box"),
    [
        (None, None, None),
        ([128, 0], None, (128, 256)),
        (None, [200, 256], (200, 256)),
        ([128, 256], [130, 250], (128, 250)),
        ([128, 256], [200, 256], (200, 256)),
        ([300, 256], None, None),
    ],
)
def test_the_acquired_matrix_is_that_of_the_header_unless_values_reach_further(header, values, box):
    flags = {} if header is None else {"interpolated": {"stored": [256, 256], "acquired": header}}
    flags |= {} if values is None else {"zero_filled": {"stored": [256, 256], "acquired": values}}
    assert acquired_box(flags) == box
