"""A corpus with one volume for each peculiarity that consumers of exports must handle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from phantom_corpus import ROOT_ATTRIBUTES, make_attributes

from rephase.corpus.index_writer import write_index
from rephase.corpus.store import CorpusStore

AXES = (-2, -1)


def fft2c(image: NDArray[Any]) -> NDArray[np.complex64]:
    return np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(image, AXES), norm="ortho"), AXES).astype(np.complex64)


def ifft2c(kspace: NDArray[Any]) -> NDArray[np.complex64]:
    return np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace, AXES), norm="ortho"), AXES).astype(np.complex64)


def make_image(num_slices: int, height: int, width: int, seed: int = 0) -> NDArray[np.complex128]:
    """Return an ellipse with stripes, noise and smooth phase; slices differ."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    number = np.arange(num_slices)[:, None, None]
    inside = (x / 0.8) ** 2 + (y / 0.9) ** 2 < 1
    magnitude = inside * (1 + 0.3 * np.cos(9 * x + number)) + 0.02 * random.rayleigh(size=(num_slices, height, width))
    return magnitude * np.exp(1j * (1.5 * x - y**2 + 0.5 * number))


def make_maps(num_coils: int, height: int, width: int) -> NDArray[np.complex128]:
    """Return sensitivities of coils on a circle, each with its phase; root sum of squares 1."""
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    angle = 2 * np.pi * np.arange(num_coils)[:, None, None] / num_coils
    distance = (x - 1.2 * np.cos(angle)) ** 2 + (y - 1.2 * np.sin(angle)) ** 2
    maps = np.exp(-distance / 2) * np.exp(1j * (angle + 0.7 * x * np.cos(angle)))
    return maps / np.sqrt((np.abs(maps) ** 2).sum(axis=0))


def make_single(num_slices: int, height: int, width: int, seed: int = 0) -> dict[str, NDArray[Any]]:
    image = make_image(num_slices, height, width, seed).astype(np.complex64)
    return {"kspace": fft2c(image), "reconstruction_esc": np.abs(image)}


def make_coils(num_slices: int, num_coils: int, height: int, width: int, seed: int = 0) -> dict[str, NDArray[Any]]:
    image = make_image(num_slices, height, width, seed)
    maps = make_maps(num_coils, height, width)
    return {
        "kspace": fft2c(image[:, None] * maps),
        "reconstruction_rss": np.abs(image).astype(np.float32),
        "sens_maps": np.broadcast_to(maps.astype(np.complex64), (num_slices, *maps.shape)).copy(),
    }


def make_consumer_corpus(root: Path) -> CorpusStore:
    """Write `single`, `coils` (8, with maps), `oversampled` (readout 2 x image), `masked` (with padding), `knee`."""
    store = CorpusStore.create(root, ROOT_ATTRIBUTES)

    def commit(name: str, arrays: dict[str, NDArray[Any]], **changes: Any) -> None:
        store.commit_volume(name, arrays, make_attributes(arrays, **changes))

    commit("single", make_single(3, 32, 24), spacing_mm=(4.0, 0.9, 1.1))
    segmented = make_single(2, 33, 25, 1)
    segmented["segmentation"] = (segmented["reconstruction_esc"] > 0.5).astype(np.uint8)
    commit("knee", segmented, acquisition="CORPD", contrast="PD", field_t=None)
    commit("coils", make_coils(2, 8, 64, 48, 2), te_ms=11.0)
    long = make_single(2, 40, 24, 3)
    long["reconstruction_esc"] = long["reconstruction_esc"][:, 10:30].copy()
    commit("oversampled", long, oversampling=2.0)
    masked = make_single(2, 32, 24, 4)
    mask = np.zeros(24, np.float32)
    mask[4:20:2] = mask[10:14] = 1
    masked["kspace"] = np.where(mask > 0, masked["kspace"], np.complex64(0))
    masked["mask"] = mask
    commit("masked", masked, padding_left=2, padding_right=21)
    write_index(store, ["single", "knee", "coils", "oversampled", "masked"])
    return store
