"""Corpora of phantom heads, made in this process: their phase is known, and no cluster is started."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from heads import head
from phantom_corpus import ROOT_ATTRIBUTES, make_attributes

import rephase
from rephase.corpus.index_writer import write_index
from rephase.corpus.store import CorpusStore
from rephase.experiments.corpora import Corpora
from rephase.numpy_fourier import fft2c_array

SPACING_MM = (5.0, 3.0, 3.0)


def make_head_corpora(folder: Path, phases: Sequence[str], train: int, test: int, size: int) -> Corpora:
    """Build training corpora with `phases` and `real`, which is that of --phase field, and both test corpora."""
    random = np.random.default_rng(0)
    heads = [head(random, size=size) for _ in range(train + test)]
    paths: dict[str, dict[str, Path]] = {"train": {}, "test": {}}
    for split, members, names in (("train", heads[:train], phases), ("test", heads[train:], ("zero",))):
        for name in dict.fromkeys((*names, "real")):
            paths[split][name] = root = folder / f"{split}-{name}.zarr"
            store = CorpusStore.create(root, ROOT_ATTRIBUTES)
            for number, (magnitude, _, brain) in enumerate(members):
                facts = {"spacing_mm": SPACING_MM, "te_ms": 6.0, "field_t": 3.0, "sequence": "gradient-echo"}
                generator, seed = ("field", 900) if name == "real" else (name, 0)
                image = rephase.add_phase(magnitude, generator=generator, seed=seed + number, **facts)
                arrays = {"kspace": fft2c_array(image), "reconstruction_esc": magnitude, "segmentation": brain}
                own = {"patient_id": f"{split}{number}", "phase_generator": name, "name": f"{split}{number}", **facts}
                store.commit_volume(f"{split}{number}", arrays, make_attributes(arrays, **own))
            write_index(store, store.names())
    return Corpora(paths["train"], paths["test"])
