from __future__ import annotations

from pathlib import Path

import numpy as np
import phantom_dicom as phantom
import pytest
from paths import SHARED
from phantom_dicom import classic, enhanced, save, save_series

from rephase.errors import VolumeError
from rephase.manifests.record import ManifestRow
from rephase.readers.registry import hash_source, read_volume
from rephase.readers.volume import Volume

MAGNITUDES = SHARED / "magnitude"

PHASE = ["ORIGINAL", "PRIMARY", "P", "ND"]
OTHER = "1.2.3"


def read(path: Path, phase: Path, **columns) -> Volume:
    row = ManifestRow(line=2, volume_id="v", path=str(path), phase=str(phase), **columns)
    volume = read_volume(row)
    assert hash_source(row) == volume.source_sha256
    return volume


def siemens_phase(k: int, stored: np.ndarray, **elements):
    scale = {"RescaleSlope": 2, "RescaleIntercept": -4096, "BitsStored": 12, "HighBit": 11}
    return classic(k, stored=stored, ImageType=PHASE, **scale, **elements)


@pytest.mark.parametrize("series", [phantom.SERIES, OTHER])
def test_phase_of_the_same_folder_in_each_echo(tmp_path, series):
    stored = np.arange(48).reshape(6, 8) * 85
    for te, shift in ((5, 0), (9, 40)):
        coded = {"EchoTime": te, "InPlanePhaseEncodingDirection": "COL"}
        save_series(tmp_path, [classic(k, **coded) for k in range(3)], f"m{te}")
        slices = [siemens_phase(k, stored + shift + k, SeriesInstanceUID=series, **coded) for k in range(3)]
        save_series(tmp_path, slices, f"p{te}")
    for echo, shift in ((1, 0), (2, 40)):
        volume = read(tmp_path, tmp_path, series=phantom.SERIES, echo=echo)
        expected = np.stack([((stored + shift + k) * 2 - 4096) / 4096 * np.pi for k in range(3)]).swapaxes(1, 2)
        np.testing.assert_allclose(np.exp(1j * volume.phase), np.exp(1j * expected), atol=1e-5)
        assert volume.phase.dtype == np.float32
        assert np.all(np.abs(volume.phase) <= np.pi)


def test_phase_of_another_folder(tmp_path):
    stored = np.full((6, 8), 3072)
    save_series(tmp_path / "m", [classic(k) for k in range(3)])
    save_series(tmp_path / "p", [siemens_phase(k, stored) for k in range(3)])
    volume = read(tmp_path / "m", tmp_path / "p")
    np.testing.assert_allclose(volume.phase, np.pi / 2, rtol=1e-6)
    without = ManifestRow(line=2, volume_id="v", path=str(tmp_path / "m"))
    assert read_volume(without).source_sha256 != volume.source_sha256


def test_phase_of_the_same_object_in_milliradians(tmp_path):
    scale = {"type": "P", "component": "PHASE", "unit": "mrad", "slope": 0.5, "intercept": -1000}
    frames = [{"index": k, **what} for what in ({}, scale) for k in range(3)]
    path = save(enhanced(frames), tmp_path / "mixed.dcm")
    volume = read(path, path)
    np.testing.assert_allclose(volume.phase, (volume.magnitude * 0.5 - 1000) / 1000, rtol=1e-5)


def test_of_two_phases_that_of_the_same_time_is_taken(tmp_path):
    save_series(tmp_path, [classic(k) for k in range(3)], "m")
    for uid, when, value in (("1.2.3", "101112", 3072), ("1.2.4", "121212", 1024)):
        named = {"SeriesInstanceUID": uid, "AcquisitionTime": when}
        save_series(tmp_path, [siemens_phase(k, np.full((6, 8), value), **named) for k in range(3)], uid)
    np.testing.assert_allclose(read(tmp_path, tmp_path, series=phantom.SERIES).phase, np.pi / 2, rtol=1e-6)


@pytest.mark.parametrize(
    ("elements", "reason", "word"),
    [
        ({"EchoTime": 7}, "mismatch", "echo time"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "ND"]}, "mismatch", "no phase"),
        ({"RescaleIntercept": 0, "RescaleSlope": 1}, "unsupported", "phase is from"),
    ],
)
def test_phase_that_does_not_fit(tmp_path, elements, reason, word):
    save_series(tmp_path / "m", [classic(k) for k in range(3)])
    slices = [siemens_phase(k, np.full((6, 8), 3072)) for k in range(3)]
    for dataset in slices:
        for keyword, value in elements.items():
            setattr(dataset, keyword, value)
    save_series(tmp_path / "p", slices)
    with pytest.raises(VolumeError, match=word) as caught:
        read(tmp_path / "m", tmp_path / "p")
    assert caught.value.reason == reason


@pytest.mark.shared_data
@pytest.mark.skipif(not MAGNITUDES.is_dir(), reason="no development data")
def test_real_mixed_object():
    path = MAGNITUDES / "traps" / "philips_enhanced_magnitude_and_phase_frames.dcm.gz"
    volume = read(path, path, echo=2)
    assert volume.phase.shape == volume.magnitude.shape == (53, 80, 80)
    assert 0.99 * np.pi < np.abs(volume.phase).max() <= np.pi
    # Where there is signal, true phase changes little from pixel to pixel.
    bright = volume.magnitude > 0.3 * volume.magnitude.max()
    step = np.angle(np.exp(1j * np.diff(volume.phase, axis=2)))[bright[:, :, 1:] & bright[:, :, :-1]]
    assert np.median(np.abs(step)) < 0.3
