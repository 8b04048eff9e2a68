"""A build reads the corpus's root document and its weights once, not at every step that needs something of them."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import pytest
import torch
from tiny_network import TINY
from volumes import write_volumes

from rephase.builder import workers as workers_module
from rephase.builder.options import BuildOptions
from rephase.builder.run import build
from rephase.cluster import scheduler as scheduler_module
from rephase.corpus.storage.local import LocalStorage
from rephase.diffusion.checkpoint import save_checkpoint
from rephase.diffusion.networks.unet import ComplexUNet
from rephase.manifests.parse import read_manifest
from rephase.pipeline.timeout import Watchdog


@pytest.fixture
def counts(monkeypatch):
    """How often this process reads the root document of a corpus, loads weights, and checks `--cluster`."""
    found: Counter[str] = Counter()

    def counted(owner, name, label, counts_call=lambda *_: True):
        original = getattr(owner, name)

        def call(*arguments, **options):
            found[label] += counts_call(*arguments)
            return original(*arguments, **options)

        monkeypatch.setattr(owner, name, call)

    for name in ("get", "exists", "get_range"):
        counted(LocalStorage, name, "root", lambda _, key, *rest: key == "zarr.json")
    counted(Path, "read_bytes", "weights", lambda path: path.suffix == ".safetensors")
    counted(scheduler_module, "check", "cluster")
    return found


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "tiny.safetensors"
    torch.manual_seed(0)
    save_checkpoint(ComplexUNet(TINY), torch.tensor([[math.nan, 2.0, 0.01, 0.02, 0.1]]), {"name": "tiny"}, path)
    return path


def test_root_document_and_weights_are_read_once(scheduler, tmp_path, tiny, counts, monkeypatch):
    setups = []
    install = workers_module.install_state
    monkeypatch.setattr(
        workers_module, "install_state", lambda *given: (setups.append(given[3][0]), install(*given))[1]
    )
    manifest, root = read_manifest(write_volumes(tmp_path, 2)), str(tmp_path / "c.zarr")
    options = BuildOptions(checkpoint=tiny, steps=1, cluster=scheduler)
    for expected in ({"built": 2, "skipped": 0}, {"built": 0, "skipped": 2}):
        counts.clear()
        summary = build(manifest, root, options, say=lambda _: None, progress=False)
        assert {"built": summary.built, "skipped": summary.skipped} == expected
        assert counts["root"] <= 2
        assert (counts["weights"], counts["cluster"]) == (1, 1)

    counts.clear()
    monkeypatch.setattr(workers_module, "Watchdog", lambda *_: Watchdog())  # which opens no file
    workers_module.prepare_worker(setups[-1])  # what every worker process does
    assert counts["root"] <= 1
    assert counts["weights"] == 1
