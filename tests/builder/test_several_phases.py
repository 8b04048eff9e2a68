"""Several phases in one build: a corpus for each, each source read once, each magnitude stored once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import rephase
import rephase.builder.workers as workers_module
from rephase.builder.options import BuildOptions
from rephase.builder.resolve import make_recipe
from rephase.builder.several import build_phases, options_of, phase_roots, share_targets
from rephase.builder.workers import run_task
from rephase.cli import main
from rephase.corpus.store import CorpusStore
from rephase.corpus.verify import verify_corpus
from rephase.data.kspace_slices import KSpaceSlices
from rephase.errors import RequestError
from rephase.manifests.parse import read_manifest
from rephase.pipeline.environment import environment_class
from rephase.pipeline.task import Task
from rephase.pipeline.worker import WorkerContext, open_worker


@pytest.fixture
def manifest(tmp_path: Path):
    for name in "ab":
        magnitude = np.random.default_rng(ord(name)).rayleigh(100, (2, 32, 24)).astype(np.float32)
        np.save(tmp_path / f"{name}.npy", magnitude)
    (tmp_path / "m.csv").write_text("volume_id,path,spacing_mm\na,a.npy,4 1 1\nb,b.npy,4 1 1\nlost,lost.npy,\n")
    return tmp_path / "m.csv"


def test_names_and_options_of_each_phase():
    assert list(phase_roots("x/b.zarr", ["zero", "smooth"]).values()) == ["x/b-zero.zarr", "x/b-smooth.zarr"]
    assert phase_roots("s3://b/x.y/brain/", ["zero"]) == {"zero": "s3://b/x.y/brain-zero"}
    given = {"checkpoint": None, "steps": 4, "replicas": 3}
    found = {phase: options_of(BuildOptions(seed=5), phase, given) for phase in ("zero", "smooth", "diffusion")}
    assert [(one.phase, one.steps, one.replicas, one.seed) for one in found.values()] == [
        ("zero", None, 1, 5), ("smooth", None, 3, 5), ("diffusion", 4, 3, 5)
    ]  # fmt: skip


def test_one_command_builds_a_corpus_for_each_phase(manifest, capsys):
    words = ["build", str(manifest), str(manifest.parent / "c.zarr"), "--phase", "zero,smooth", "--replicas", "2"]
    assert main([*words, "--workers", "1", "--dashboard-address", "127.0.0.1:0", "--json"]) == 1  # one source is lost
    zero, smooth = json.loads(capsys.readouterr().out)
    assert (zero["built"], zero["skipped"], zero["num_slices"], list(zero["failed"])) == (2, 0, 4, ["lost"])
    assert (smooth["built"], smooth["skipped"], smooth["num_slices"]) == (4, 0, 8)
    assert sorted(smooth["failed"]) == ["lost", "lost@1"]
    roots = [manifest.parent / f"c-{phase}.zarr" for phase in ("zero", "smooth")]
    assert [KSpaceSlices(root).volumes for root in roots] == [["a", "b"], ["a", "a@1", "b", "b@1"]]
    for root, phase in zip(roots, ("zero", "smooth"), strict=True):
        assert verify_corpus(root).problems == []
        assert KSpaceSlices(root)[0][3]["phase_generator"] == phase
    assert np.array_equal(KSpaceSlices(roots[0])[1][2], KSpaceSlices(roots[1])[1][2])
    shards = [root / "volumes/a/reconstruction_esc/c.0.0.0" for root in roots]
    assert shards[0].samefile(shards[1])  # one file
    assert not (roots[0] / "volumes/a/kspace/c.0.0.0").samefile(roots[1] / "volumes/a/kspace/c.0.0.0")
    assert share_targets([str(root) for root in roots]) == 0

    good = shards[1].read_bytes()
    shards[1].unlink()
    shards[1].write_bytes(good)  # no longer shared
    shards[0].write_bytes(bytes([good[0] ^ 1]) + good[1:])
    assert share_targets([str(root) for root in roots]) == 0  # damage of one does not reach the other
    assert [bool(verify_corpus(root).problems) for root in roots] == [True, False]


def test_a_source_is_read_once_and_the_bytes_are_those_of_single_builds(manifest, monkeypatch):
    """In the process of a worker: the same task functions, without a cluster."""

    def worker_of(name: str, phase: str) -> WorkerContext:
        recipe = make_recipe(BuildOptions(phase=phase))
        root = str(manifest.parent / name)
        CorpusStore.create(root, recipe.attributes())
        return open_worker(root, recipe, environment_class("cpu"))

    worker = replace(worker_of("one.zarr", "zero"), also=((worker_of("two.zarr", "smooth"), 1),))
    alone = worker_of("alone.zarr", "smooth")
    monkeypatch.setattr(workers_module, "worker_state", lambda name: {"several": worker, "alone": alone}[name])
    read, original = [], workers_module.read_volume

    def counted(row, limit):
        read.append(row.volume_id)
        return original(row, limit)

    monkeypatch.setattr(workers_module, "read_volume", counted)
    rows = list(read_manifest(manifest))
    assert [run_task("several", Task(row)).status for row in rows] == ["built", "built", "failed"]
    assert read == ["a", "b", "lost"]
    assert [run_task("alone", Task(row)).status for row in rows[:2]] == ["built", "built"]
    receipts = [CorpusStore.open(manifest.parent / name).receipt("a") for name in ("two.zarr", "alone.zarr")]
    assert receipts[0] == receipts[1]


@pytest.mark.parametrize("words", ["zero,zero", "zero,wavy", ","])
def test_phases_that_make_no_sense_are_one_line(manifest, capsys, words):
    assert main(["build", str(manifest), str(manifest.parent / "c.zarr"), "--phase", words]) == 2
    assert "argument --phase" in capsys.readouterr().err


def test_a_request_that_one_corpus_refuses_starts_nothing(manifest):
    (manifest.parent / "c-zero.zarr").write_text("a file")
    corpora = {str(manifest.parent / f"c-{phase}.zarr"): BuildOptions(phase=phase) for phase in ("smooth", "zero")}
    with pytest.raises(RequestError, match=r"c-zero\.zarr: is a file"):
        build_phases(read_manifest(manifest), corpora)
    assert not (manifest.parent / "c-smooth.zarr").exists()


def test_the_python_function_has_the_same_requests(manifest):
    corpus = manifest.parent / "c.zarr"
    for phases in (["zero", "zero"], ["zero", "wavy"]):
        with pytest.raises(RequestError, match="expected different ones of"):
            rephase.build_phases(manifest, corpus, phases)
    (manifest.parent / "c-zero.zarr").write_text("a file")
    rows = [{"volume_id": "a", "path": manifest.parent / "a.npy", "spacing_mm": (4, 1, 1)}]
    with pytest.raises(RequestError, match=r"c-zero\.zarr: is a file"):
        rephase.build_phases(rows, corpus, ["smooth", "zero"], replicas=2, seed=3)
