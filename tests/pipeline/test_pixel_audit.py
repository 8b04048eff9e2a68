from __future__ import annotations

import io
import json

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from rephase.cli import main
from rephase.pipeline.pixel_audit import PIXEL_FLAGS, audit_pixels, measure_pixels

SIZE = 96


def kspace(noise: float = 0.02, size: int = SIZE) -> NDArray[np.complex128]:
    """Return the noisy k-space of ellipses with smooth phase, `(4 size size)`; the brightest one has modulus 1."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    image = np.zeros((4, size, size), complex)
    for part in image:
        for _ in range(12):
            cy, cx = rng.uniform(-0.4, 0.4, 2)
            part += rng.uniform(0.1, 0.4) * (((y - cy) / rng.uniform(0.1, 0.4)) ** 2 + ((x - cx) / 0.3) ** 2 < 1)
        part += 0.3 * ((y / 0.8) ** 2 + (x / 0.7) ** 2 < 1)
    image *= np.exp(6j * (x**2 + y**2 + x * y)) / image.real.max()
    image += noise * (rng.normal(size=image.shape) + 1j * rng.normal(size=image.shape))
    return np.fft.fftshift(np.fft.fft2(image), axes=(1, 2))


def magnitude(spectrum: NDArray[np.complex128]) -> NDArray[np.float32]:
    image = np.abs(np.fft.ifft2(np.fft.ifftshift(spectrum, axes=(1, 2))))
    return np.asarray(np.round(image / image.max() * 4000), dtype=np.float32)


def filled(factor: float) -> NDArray[np.float32]:
    margin = round(SIZE * (factor - 1) / 2)
    return magnitude(np.pad(kspace(), ((0, 0), (margin, margin), (margin, margin))))


def test_an_image_as_acquired_has_no_flag() -> None:
    assert audit_pixels(magnitude(kspace())) == {}


@pytest.mark.parametrize("factor", [1.5, 2.0])
def test_zero_filling_is_found_with_the_acquired_matrix(factor: float) -> None:
    found = audit_pixels(filled(factor))["zero_filled"]
    assert found["stored"] == [SIZE * factor] * 2
    assert found["acquired"] == pytest.approx([SIZE, SIZE], rel=0.06)


def test_a_hann_filter_is_found() -> None:
    # it may leave as little at the end of k-space as zero-filling does
    window = np.hanning(SIZE + 1)[:-1]
    assert {"smoothed", "zero_filled"} & audit_pixels(magnitude(kspace() * np.outer(window, window))).keys()


@pytest.mark.parametrize("shift", [0, 3])
@pytest.mark.parametrize("quality", [50, 75])
def test_jpeg_is_found_wherever_its_blocks_begin(quality: int, shift: int) -> None:
    slices = []
    for image in magnitude(kspace()) / 4000 * 255:
        data = io.BytesIO()
        Image.fromarray(image.astype(np.uint8)).save(data, "JPEG", quality=quality)
        slices.append(np.asarray(Image.open(data), dtype=np.float32)[shift:, shift:])
    found = audit_pixels(np.stack(slices))
    assert {"block_edges", "quantised"} <= found.keys()


def test_few_levels_and_clipping_are_found() -> None:
    plain = magnitude(kspace())
    assert audit_pixels(np.round(plain / 40))["quantised"]["levels"] <= 101
    clipped = np.minimum(plain, np.float32(np.percentile(plain, 99).round()))
    assert audit_pixels(clipped)["saturated"]["share"] > 0.005


def test_a_masked_background_and_a_cut_through_tissue_are_told_apart() -> None:
    plain = magnitude(kspace())
    stripped = np.where(plain > 0.25 * plain.max(), plain, np.float32(0))
    assert audit_pixels(stripped)["hard_edges"]["share"] > 0.2
    y, x = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
    air = np.where((y / 0.95) ** 2 + (x / 0.9) ** 2 < 1, plain, np.float32(0))
    found = audit_pixels(air)
    assert "masked_background" in found and "hard_edges" not in found


def test_the_noise_floor_is_measured_in_air() -> None:
    image = np.abs(np.fft.ifft2(np.fft.ifftshift(kspace(0.1), axes=(1, 2)))).astype(np.float32)
    figures = measure_pixels(image)
    assert figures.sigma == pytest.approx(0.1, rel=0.1)
    assert "noise_floor" in figures.flags()


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 7, 300), (3, 40, 41)])
def test_small_and_empty_volumes_are_measured(shape: tuple[int, int, int]) -> None:
    for volume in (np.zeros(shape, np.float32), np.ones(shape, np.float32), np.arange(np.prod(shape)).reshape(shape)):
        found = audit_pixels(volume.astype(np.float32))
        assert set(found) <= set(PIXEL_FLAGS) and json.loads(json.dumps(found)) == found


def test_the_command_prints_every_volume_and_totals(tmp_path, capsys) -> None:
    image = nibabel.Nifti1Image(filled(2.0).transpose(2, 1, 0), np.diag([1.0, 1.0, 4.0, 1.0]))
    nibabel.save(image, tmp_path / "head.nii.gz")
    rows = "volume_id,path\na,head.nii.gz\nb,lost.nii.gz\n"
    (tmp_path / "m.csv").write_text(rows)
    assert main(["audit", str(tmp_path / "head.nii.gz")]) == 0
    assert "zero_filled (stored 192 x 192" in capsys.readouterr().out
    assert main(["audit", str(tmp_path / "m.csv"), "--json"]) == 1
    data = json.loads(capsys.readouterr().out)
    assert data["totals"]["zero_filled"] == 1
    assert [one["volume"] for one in data["volumes"]] == ["a"] and data["unreadable"][0][0] == "b"
