"""Corpora of the version before: they are read, they are sound, and the same recipe gives the same bytes."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from paths import TESTS

from rephase.builder.options import BuildOptions
from rephase.builder.preflight import open_corpus
from rephase.builder.resolve import make_recipe, resolve_build
from rephase.corpus.index import read_index
from rephase.corpus.index_writer import write_index
from rephase.corpus.store import CorpusStore
from rephase.corpus.verify import verify_corpus
from rephase.data.kspace_slices import KSpaceSlices
from rephase.data.stream import KSpaceStream
from rephase.manifests.parse import read_manifest
from rephase.pipeline.build_volume import build_volume
from rephase.pipeline.environment import environment_class
from rephase.pipeline.recipe import ALGORITHM, ALGORITHMS
from rephase.pipeline.task import Outcome, Task
from rephase.pipeline.worker import open_worker

BEFORE = TESTS / "corpora" / "format-1"
PHASES = ("smooth", "field", "diffusion")
NAME = "head-a"
BEGUN_WITH = 7
"""Algorithm of those corpora."""


def build(root: Path, phase: str, algorithm: int = ALGORITHM) -> Outcome:
    """Build the one volume in this process, as `rephase build --seed 3 --phase PHASE` does."""
    recipe = replace(make_recipe(BuildOptions(phase=phase, seed=3)), algorithm=algorithm)
    open_corpus(str(root), recipe, overwrite=False)
    worker = open_worker(str(root), recipe, environment_class("cpu"))
    (row,) = read_manifest(BEFORE / "manifest.csv")
    outcome = build_volume(Task(row), worker)
    write_index(worker.store, [NAME])
    return outcome


def receipt_of(root: Path) -> dict[str, Any]:
    receipt = CorpusStore.open(root).receipt(NAME)
    assert receipt is not None
    return receipt


def image_of(root: Path) -> np.ndarray:
    kspace = zarr.open_array(str(root / f"volumes/{NAME}/kspace"), mode="r")[:]
    return np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace, axes=(-2, -1)), norm="ortho"), axes=(-2, -1))


def files_of(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("phase", PHASES)
def test_a_corpus_of_the_version_before_is_sound_and_read(phase: str) -> None:
    root = BEFORE / f"{phase}.zarr"
    result = verify_corpus(root)
    assert (result.problems, result.num_volumes, result.num_slices) == ([], 1, 2)
    index = read_index(root)
    assert (index.names, index.columns["te_ms"], index.columns["contrast"]) == ([NAME], [20.0], ["T2star"])
    slices = KSpaceSlices(root, split="train", contrast="T2star", where=lambda row: row["field_t"] == 3)
    kspace, mask, target, attrs, fname, number = slices[1]
    assert (kspace.shape, mask.shape, target.shape, fname, number) == ((40, 32), (32,), (40, 32), NAME, 1)
    assert (attrs["te_ms"], attrs["field_t"], attrs["anatomy"], attrs["patient_id"]) == (20.0, 3.0, "head", "s1")
    assert np.abs(np.abs(image_of(root)[1]) - target).max() <= 1e-5 * attrs["max"]
    assert len(list(KSpaceStream(root, shuffle=False))) == 2


@pytest.mark.parametrize("phase", PHASES)
def test_the_same_recipe_gives_the_same_hashes_and_bytes(tmp_path: Path, phase: str) -> None:
    before, root = BEFORE / f"{phase}.zarr", tmp_path / "c.zarr"
    assert build(root, phase, BEGUN_WITH).status == "built"
    old, new = CorpusStore.open(before).attributes, CorpusStore.open(root).attributes
    same_weights = old["checkpoint_hash"] == new["checkpoint_hash"]
    if same_weights:
        assert new["recipe_hash"] == old["recipe_hash"]
    receipt, expected = receipt_of(root), receipt_of(before)
    assert receipt["row_hash"] == expected["row_hash"]
    if same_weights and receipt["environment"] == expected["environment"]:
        assert receipt["checksums"] == expected["checksums"]
        assert files_of(root) == files_of(before)
        return
    # receipts of other weights name them and their number of evaluations
    differing = ("environment", "checksums", "recipe_hash", *(() if same_weights else ("nfe",)))
    assert {**receipt, **dict.fromkeys(differing)} == {**expected, **dict.fromkeys(differing)}
    magnitude = np.abs(image_of(before))
    np.testing.assert_allclose(np.abs(image_of(root)), magnitude, atol=1e-5 * magnitude.max())
    if same_weights:
        assert np.abs(image_of(root) - image_of(before)).max() <= 1e-4 * magnitude.max()


@pytest.mark.parametrize("phase", PHASES)
def test_a_build_in_a_corpus_of_the_version_before_skips_its_volume(tmp_path: Path, phase: str) -> None:
    root = tmp_path / "c.zarr"
    shutil.copytree(BEFORE / f"{phase}.zarr", root)
    resumed = resolve_build(str(root), BuildOptions(phase=phase, seed=3), store=CorpusStore.open(root))
    assert resumed.algorithm == BEGUN_WITH
    assert "algorithm 7" in resumed.notes()[0]
    if (
        make_recipe(BuildOptions(phase=phase, seed=3)).checkpoint_sha256
        != CorpusStore.open(root).attributes["checkpoint_hash"]
    ):
        pytest.skip("other weights are shipped now, so the recipe is another one")
    assert build(root, phase, resumed.algorithm).status == "skipped"
    assert files_of(root) == files_of(BEFORE / f"{phase}.zarr")


def test_a_gradient_echo_has_the_same_bytes_by_the_algorithm_between(tmp_path: Path) -> None:
    roots = {algorithm: tmp_path / f"{algorithm}.zarr" for algorithm in ALGORITHMS}
    for algorithm, root in roots.items():
        build(root, "field", algorithm)
    before, between, _, coherent, now, audited, named = (receipt_of(root) for root in roots.values())
    assert between["checksums"] == before["checksums"] and audited["checksums"] == now["checksums"]
    assert named["checksums"]["kspace/c.0.0.0"] == now["checksums"]["kspace/c.0.0.0"]
    key = "kspace/c.0.0.0"
    assert [receipt_of(root)["checksums"][key] for root in roots.values()][:3] == [before["checksums"][key]] * 3
    assert len({one["checksums"][key] for one in (before, coherent, now)}) == 3
    assert (before.get("sequence_assumed"), between["sequence_assumed"]) == (None, "gradient-echo")
