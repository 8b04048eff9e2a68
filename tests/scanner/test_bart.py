"""BART on our multi-coil k-space: it finds our coil maps by itself, and reconstructs undersampled data with them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scans import build_scan, write_head

from rephase.data.kspace_slices import KSpaceSlices
from rephase.exports.export import ExportOptions, export_corpus

pytestmark = pytest.mark.skipif(shutil.which("bart") is None, reason="BART is not installed: the Debian package bart")


def bart(folder: Path, *words: object) -> None:
    done = subprocess.run(["bart", *map(str, words)], cwd=folder, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def read_cfl(path: Path) -> NDArray[np.complex64]:
    sizes = [int(word) for word in path.with_suffix(".hdr").read_text().splitlines()[1].split()]
    return np.fromfile(path.with_suffix(".cfl"), np.complex64).reshape(sizes, order="F")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("bart")
    manifest = write_head(folder, (1, 96, 80), noise=4.0)
    root = build_scan(manifest, folder / "c.zarr", coils="brain8", phase="smooth")
    export_corpus(root, folder / "out", ExportOptions(file_format="bart"))
    return root, folder / "out" / "head"


def test_ecalib_finds_our_maps(exported: tuple[Path, Path], tmp_path: Path) -> None:
    root, files = exported
    bart(tmp_path, "ecalib", "-m", 1, "-c", 0, "-r", 24, files / "kspace", "found")
    found = read_cfl(tmp_path / "found").squeeze().transpose(2, 0, 1)
    _, _, target, attributes, _, _ = KSpaceSlices(root, maps=True)[0]
    inside = target > 0.2 * target.max()
    likeness = np.abs((found.conj() * attributes["sens_maps"]).sum(axis=0)) / np.linalg.norm(found, axis=0)
    assert likeness[inside].min() >= 0.98


def test_pics_reconstructs_a_quarter_of_the_lines(exported: tuple[Path, Path], tmp_path: Path) -> None:
    root, files = exported
    kspace, _, target, _, _, _ = KSpaceSlices(root)[0]
    width = kspace.shape[-1]
    pattern = np.zeros((1, width), np.complex64)
    pattern[:, ::4] = pattern[:, width // 2 - 12 : width // 2 + 12] = 1
    (tmp_path / "pattern.hdr").write_text(f"# Dimensions\n1 {width} 1 1 1\n")
    pattern.tofile(tmp_path / "pattern.cfl")
    bart(tmp_path, "fmac", files / "kspace", "pattern", "under")
    bart(tmp_path, "ecalib", "-m", 1, "-c", 0, "-r", 24, "under", "maps")
    bart(tmp_path, "pics", "-S", "-l1", "-r", 0.002, "-i", 60, "under", "maps", "image")
    bart(tmp_path, "fft", "-u", "-i", 3, "under", "coils")
    bart(tmp_path, "rss", 8, "coils", "zero")
    errors = [
        np.square(np.abs(read_cfl(tmp_path / name).squeeze()) - target).sum() / np.square(target).sum()
        for name in ("image", "zero")
    ]
    assert errors[0] < 0.01 and errors[0] < 0.2 * errors[1], errors
