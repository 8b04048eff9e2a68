"""Small volumes with known k-space, made with NumPy's FFT, and corpora of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rephase.corpus.layout import canonical_hash
from rephase.corpus.store import CorpusStore

RECIPE = {"phase": "smooth", "seed": 7, "checkpoint_sha256": None}
ROOT_ATTRIBUTES = {"recipe": RECIPE, "recipe_hash": canonical_hash(RECIPE), "checkpoint_hash": None, "seed": 7}


def make_arrays(
    num_slices: int = 3, height: int = 16, width: int = 12, coils: int = 0, seed: int = 0
) -> dict[str, Any]:
    """Return random images with an air border and their k-space by NumPy's FFT."""
    random = np.random.default_rng(seed)
    shape = (num_slices, coils, height, width) if coils else (num_slices, height, width)
    image = random.normal(size=shape) + 1j * random.normal(size=shape)
    image[..., :3, :] = 0
    axes = (-2, -1)
    kspace = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(image, axes), norm="ortho"), axes).astype(np.complex64)
    target = np.sqrt((np.abs(image) ** 2).sum(axis=1)) if coils else np.abs(image)
    name = "reconstruction_rss" if coils else "reconstruction_esc"
    return {"kspace": kspace, name: target.astype(np.float32)}


def make_attributes(arrays: dict[str, NDArray[Any]], **changes: Any) -> dict[str, Any]:
    kspace = arrays["kspace"]
    target = arrays["reconstruction_esc" if kspace.ndim == 3 else "reconstruction_rss"]
    return {
        "row_hash": "1" * 64,
        "recipe_hash": ROOT_ATTRIBUTES["recipe_hash"],
        "source_sha256": "2" * 64,
        "environment": {"device": "cpu", "torch": "2.13.0"},
        "acquisition": "AXT1",
        "max": float(target.max()),
        "norm": float(np.sqrt(np.square(target.astype(np.float64)).sum())),  # not by BLAS: its threads change the sum
        "patient_id": "s1",
        "split": "train",
        "contrast": "T1",
        "anatomy": None,
        "field_t": 3.0,
        "te_ms": None,
        "spacing_mm": (4.0, 1.0, 1.0),
        "affine": [[0.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 0.0], [4.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]],
        "orientation": "SPL",
        "transposed": False,
        "phase_encode": "assumed",
        "scale": 256.0,
        "phase_generator": "smooth",
        "nfe": 0,
        "noise_sigma": 0.0,
        "oversampling": 1.0,
        "encoding_size": (kspace.shape[-2], kspace.shape[-1], 1),
        "recon_size": (*target.shape[1:], 1),
        "padding_left": 0,
        "padding_right": kspace.shape[-1],
        "storage": "kspace",
        "licence": "CC0-1.0",
        "audit": {"interpolated": {"acquired": [8, 8]}},
        "num_slices": kspace.shape[0],
        "seed": 7,
        "replica": 0,
        **changes,
    }


def make_corpus(root: Path, **volumes: dict[str, Any]) -> CorpusStore:
    """Write a corpus of named volumes with the arguments of `make_arrays`; `attributes` goes to the receipt."""
    store = CorpusStore.create(root, ROOT_ATTRIBUTES)
    for name, options in volumes.items():
        arrays = make_arrays(**{key: value for key, value in options.items() if key != "attributes"})
        store.commit_volume(name, arrays, make_attributes(arrays, name=name, **options.get("attributes", {})))
    return store
