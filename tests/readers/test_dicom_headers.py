from __future__ import annotations

import pydicom
import pytest

from rephase.facts import CONTRASTS
from rephase.readers.dicom.facts import header_facts
from rephase.readers.image_type import computed_word, frame_kind


def facts(image_type=("ORIGINAL", "PRIMARY", "M"), **elements):
    dataset = pydicom.Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    dataset.ImageType = list(image_type)
    return header_facts(dataset)


@pytest.mark.parametrize(
    ("elements", "contrast"),
    [
        ({"ScanningSequence": "SE", "RepetitionTime": 500, "EchoTime": 12}, "T1"),
        ({"ScanningSequence": "SE", "RepetitionTime": 4000, "EchoTime": 90}, "T2"),
        ({"ScanningSequence": "SE", "RepetitionTime": 3000, "EchoTime": 20}, "PD"),
        ({"ScanningSequence": "SE", "RepetitionTime": 1200, "EchoTime": 50}, "SE"),
        ({"ScanningSequence": "SE"}, "SE"),
        ({"ScanningSequence": ["SE", "IR"], "RepetitionTime": 9000, "EchoTime": 120, "InversionTime": 2500}, "FLAIR"),
        ({"ScanningSequence": ["SE", "IR"], "RepetitionTime": 4000, "EchoTime": 30, "InversionTime": 150}, "IR"),
        ({"ScanningSequence": ["GR", "IR"], "SequenceVariant": "MP", "InversionTime": 900, "EchoTime": 3}, "T1"),
        ({"ScanningSequence": "GR", "EchoTime": 20}, "GRE"),
        ({"ScanningSequence": "GR", "AngioFlag": "Y"}, "MRA"),
        ({"ScanningSequence": "EP", "EchoTime": 30}, None),
        ({"ScanningSequence": "EP", "DiffusionBValue": 1000.0}, "DWI"),
        ({"AcquisitionContrast": "T2_STAR"}, "T2star"),
        ({"AcquisitionContrast": "UNKNOWN"}, None),
        ({}, None),
    ],
)
def test_contrast_is_named_where_the_header_leaves_no_doubt(elements, contrast):
    assert facts(**elements).contrast == contrast
    assert contrast is None or contrast in CONTRASTS


@pytest.mark.parametrize(("stated", "contrast"), [("T1", "T1"), ("UNKNOWN", "GRE"), (None, "GRE")])
def test_philips_states_the_contrast_in_a_private_sequence(stated, contrast):
    inner, dataset = pydicom.Dataset(), pydicom.Dataset()
    if stated is not None:
        inner.AcquisitionContrast = stated
    dataset.ScanningSequence, dataset.ImageType = "GR", ["ORIGINAL", "PRIMARY", "M_FFE"]
    dataset.private_block(0x2005, "Philips MR Imaging DD 005", create=True).add_new(0x0F, "SQ", [inner])
    assert header_facts(dataset).contrast == contrast


@pytest.mark.parametrize(
    ("matrix", "encode", "acquired"),
    [
        ([0, 256, 192, 0], "ROW", [256, 192]),  # 256 samples down each column, 192 steps along the rows
        ([128, 0, 0, 96], "COL", [128, 96]),  # transposed: height is still readout
        ([128, 0, 0, 96], None, [96, 128]),  # not transposed: 96 rows of 128
        ([0, 256, 192, 0], None, [256, 192]),
        ([0, 0, 0, 0], "ROW", None),
        ([0, 256, 0, 0], "ROW", None),
    ],
)
def test_acquired_matrix_is_in_stored_axes(matrix, encode, acquired):
    elements = {"InPlanePhaseEncodingDirection": encode} if encode else {}
    assert facts(AcquisitionMatrix=matrix, **elements).acquisition.get("acquired_matrix") == acquired


@pytest.mark.parametrize(("stated", "tesla"), [(3, 3.0), (15000, 1.5), (0, None), (0.55, 0.55)])
def test_field_strength_in_tesla(stated, tesla):
    assert facts(MagneticFieldStrength=stated).field_t == tesla


@pytest.mark.parametrize(
    ("stated", "anatomy"), [("KNEE", "knee"), ("CSPINE", "cspine"), ("MR JONES", None), ("", None)]
)
def test_anatomy_is_a_word_of_a_list(stated, anatomy):
    assert facts(BodyPartExamined=stated).anatomy == anatomy


def test_facts_are_only_those_that_are_known():
    assert facts().acquisition == {"image_type": ["ORIGINAL", "PRIMARY", "M"], "lossy_compression": False}
    assert facts().phase_encode == "assumed"


@pytest.mark.parametrize(
    ("image_type", "kind"),
    [
        ("ORIGINAL\\PRIMARY\\M\\ND", "magnitude"),
        ("ORIGINAL\\PRIMARY\\M_FFE\\M\\FFE", "magnitude"),
        ("ORIGINAL\\PRIMARY\\OTHER", "magnitude"),
        ("ORIGINAL\\PRIMARY\\DIFFUSION\\NONE\\ND\\MOSAIC", "magnitude"),
        ("ORIGINAL\\PRIMARY\\P\\ND", "phase"),
        ("ORIGINAL\\PRIMARY\\VELOCITY MAP\\P\\PCA", "phase"),
        ("ORIGINAL\\PRIMARY\\I_SE\\I\\SE", "imaginary"),
        ("DERIVED\\SECONDARY\\MPR\\M\\ND", "derived"),
        ("DERIVED\\PRIMARY\\DIFFUSION\\FA", "derived"),
        ("ORIGINAL\\PRIMARY\\T1 MAP\\T1\\UNSPECIFIED", "derived"),
        ("P\\PRIMARY\\M", "magnitude"),
    ],
)
def test_kinds(image_type, kind):
    assert frame_kind(image_type.split("\\")) == kind


def test_a_computed_quantity_is_named():
    assert computed_word(["DERIVED", "PRIMARY", "DIFFUSION", "ADC"]) == "ADC"
    assert computed_word(["ORIGINAL", "PRIMARY", "R2_STAR_MAP"]) == "R2_STAR_MAP"
    assert computed_word(["ORIGINAL", "PRIMARY", "DIXON", "FAT_FRACTION"]) == "FAT_FRACTION"
    assert computed_word(["ORIGINAL", "PRIMARY", "PHASE MAP"]) is None
    assert computed_word(["DERIVED", "SECONDARY", "MPR"]) is None
