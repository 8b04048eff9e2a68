"""Builds on real Dask workers: the same bytes in every way, and after every kind of death."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from volumes import phantom, volume_bytes, write_manifest, write_volumes

from rephase.builder.options import BuildOptions
from rephase.builder.repair import RepairOptions, repair_corpus
from rephase.builder.resolve import resolve_build
from rephase.builder.run import build, run_tasks
from rephase.builder.run_state import read_run_state
from rephase.builder.runlog import RunLog, read_failures, read_run, run_names
from rephase.builder.status import read_status
from rephase.builder.summary import BuildSummary
from rephase.cluster.errors import ClusterError
from rephase.cluster.window import Finished
from rephase.corpus.index import read_index
from rephase.corpus.index_writer import IndexBuilder
from rephase.corpus.lease import Lease
from rephase.corpus.store import CorpusStore
from rephase.corpus.verify import verify_corpus
from rephase.errors import RequestError
from rephase.manifests.parse import read_manifest
from rephase.pipeline.task import Outcome, task_list

NUM_LONG = 10
"""Volumes of a build that takes long enough to be killed in the middle."""


def run_build(scheduler: str, manifest: Path, root: Path, **options) -> BuildSummary:
    options = {"phase": "smooth", "cluster": scheduler, **options}
    kept = options.get("keep_columns", ())
    return build(read_manifest(manifest, kept), str(root), BuildOptions(**options), say=lambda _: None, progress=False)


def test_batch_size_and_order_change_no_byte_and_the_seed_does(scheduler, tmp_path):
    manifest = write_volumes(tmp_path, 5)
    lines = manifest.read_text().splitlines()
    turned = write_manifest(tmp_path / "turned.csv", lines[:0:-1])
    first = run_build(scheduler, manifest, tmp_path / "a.zarr", replicas=2)
    assert first.exit_status == 0, first.lines()
    assert run_build(scheduler, turned, tmp_path / "b.zarr", replicas=2, batch_size=1).exit_status == 0
    assert run_build(scheduler, manifest, tmp_path / "d.zarr", replicas=2, seed=1).exit_status == 0
    expected = volume_bytes(tmp_path / "a.zarr")
    assert len([name for name in expected if "/c." in name]) == 2 * 10
    assert volume_bytes(tmp_path / "b.zarr") == expected
    other = volume_bytes(tmp_path / "d.zarr")
    shards = [name for name in expected if "/kspace/c." in name]
    assert len(shards) == 10 and all(other[name] != expected[name] for name in shards)


@pytest.mark.parametrize("place", ["take", "add"])
def test_an_interrupt_while_an_outcome_is_counted_counts_it_once(scheduler, tmp_path, monkeypatch, place):
    owner = BuildSummary if place == "take" else IndexBuilder
    method = getattr(owner, place)

    def interrupted(self, *arguments):
        method(self, *arguments)
        monkeypatch.setattr(owner, place, method)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(owner, place, interrupted)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        summary = run_build(scheduler, write_volumes(tmp_path, 3), tmp_path / "c.zarr")
    finally:
        for number, handler in handlers.items():  # after the first one, the next ends the process
            signal.signal(number, handler)
    committed = CorpusStore.open(tmp_path / "c.zarr").names()
    assert summary.interrupted and summary.built == len(committed) >= 1
    assert sorted(read_index(tmp_path / "c.zarr").names) == sorted(committed)


def test_the_order_of_kept_columns_does_not_matter(scheduler, tmp_path):
    lines = [f"{line},{n},s{n}" for n, line in enumerate(write_volumes(tmp_path, 2).read_text().splitlines()[1:])]
    manifest = write_manifest(tmp_path / "m.csv", lines, "volume_id,path,age,site")
    root = tmp_path / "c.zarr"
    assert run_build(scheduler, manifest, root, keep_columns=("site", "age")).built == 2
    again = run_build(scheduler, manifest, root, keep_columns=("age", "site"))
    assert (again.skipped, again.exit_status) == (2, 0)
    expected = volume_bytes(root)
    shard = next(path for path in root.rglob("c.*") if path.is_file())
    shard.write_bytes(b"x")
    summary = repair_corpus(
        str(root), RepairOptions(build=BuildOptions(cluster=scheduler)), say=lambda _: None, bar=False
    )
    assert summary.exit_status == 0 and volume_bytes(root) == expected


def test_rows_do_not_ask_for_replicas_of_one_phase(scheduler, tmp_path):
    lines = [f"{line},2" for line in write_volumes(tmp_path, 1).read_text().splitlines()[1:]]
    manifest = write_manifest(tmp_path / "m.csv", lines, "volume_id,path,replicas")
    for phase in ("zero", "real"):
        with pytest.raises(RequestError, match=r"m.csv:2: replicas is 2: --phase (zero|real)"):
            run_build(scheduler, manifest, tmp_path / "c.zarr", phase=phase)


def test_second_build_skips_and_index_is_in_manifest_order(scheduler, tmp_path):
    manifest = write_volumes(tmp_path, 4)
    root = tmp_path / "c.zarr"
    first = run_build(scheduler, manifest, root)
    assert (first.built, first.skipped, first.num_slices) == (4, 0, 12)
    before = volume_bytes(root)
    np.save(tmp_path / "late.npy", phantom(9))
    lines = manifest.read_text().splitlines()[1:]
    write_manifest(manifest, ["late,late.npy", *lines[::-1]])
    second = run_build(scheduler, manifest, root, replicas=1)
    assert (second.built, second.skipped, second.exit_status) == (1, 4, 0)
    after = volume_bytes(root)
    assert {name: after[name] for name in before} == before
    assert read_index(root).names == ["late", "v3", "v2", "v1", "v0"]
    assert verify_corpus(root).problems == []


def test_a_bad_volume_stops_no_other_and_is_retried_only_on_request_or_if_edited(scheduler, tmp_path):
    manifest, root = write_volumes(tmp_path, 3), tmp_path / "c.zarr"
    (tmp_path / "v1.npy").unlink()
    (tmp_path / "text.nii.gz").write_text("not an image")
    with manifest.open("a") as file:
        file.write("text,text.nii.gz\n")

    first = run_build(scheduler, manifest, root)
    assert (first.built, first.exit_status, set(first.failed)) == (2, 1, {"v1", "text"})
    assert (first.failed["v1"].reason, first.failed["text"].reason) == ("missing", "unreadable")
    text = "\n".join(first.lines())
    assert "2 volumes failed" in text and "v1.npy" in text and "text.nii.gz" in text

    np.save(tmp_path / "v1.npy", phantom(1))  # fixed, but without --retry-failed
    second = run_build(scheduler, manifest, root)
    assert (second.built, second.skipped, set(second.not_retried), second.exit_status) == (0, 2, {"v1", "text"}, 1)
    assert "--retry-failed" in "\n".join(second.lines())

    third = run_build(scheduler, manifest, root, retry_failed=True)
    assert (third.built, set(third.failed), set(third.not_retried)) == (1, {"text"}, set())
    assert set(read_failures(str(root))) == {"text"}

    np.save(tmp_path / "text.npy", phantom(7))
    manifest.write_text(manifest.read_text().replace("text.nii.gz", "text.npy"))
    fourth = run_build(scheduler, manifest, root)
    assert (fourth.built, fourth.exit_status, read_failures(str(root))) == (1, 0, {})


def test_another_recipe_is_refused_with_the_differences_and_overwritten_on_request(scheduler, tmp_path):
    manifest, root = write_volumes(tmp_path, 2), tmp_path / "c.zarr"
    run_build(scheduler, manifest, root)
    before = volume_bytes(root)
    with pytest.raises(RequestError, match=r"(?s)another recipe.*seed: corpus has 0, requested 4.*--overwrite"):
        run_build(scheduler, manifest, root, seed=4)
    assert volume_bytes(root) == before
    summary = run_build(scheduler, manifest, root, seed=4, overwrite=True)
    assert (summary.built, CorpusStore.open(root).attributes["seed"]) == (2, 4)
    assert verify_corpus(root).problems == []


def test_machines_of_another_kind_may_not_carry_on(scheduler, tmp_path):
    manifest, root = write_volumes(tmp_path, 2), tmp_path / "c.zarr"
    run_build(scheduler, manifest, root)
    receipt = root / "volumes" / "v0" / "zarr.json"
    document = json.loads(receipt.read_text())
    document["attributes"]["environment"]["torch"] = "0.1"
    receipt.write_text(json.dumps(document))
    with pytest.raises(RequestError, match=r"another kind .*0\.1.*--allow-mixed-devices"):
        run_build(scheduler, manifest, root)
    assert run_build(scheduler, manifest, root, allow_mixed_devices=True).exit_status == 0


def test_two_builds_share_a_cluster_without_mixing(scheduler, tmp_path):
    manifests = [write_volumes(tmp_path / name, 6, shape=(6, 64, 64)) for name in ("one", "two")]
    with ThreadPoolExecutor(2) as pool:
        seeds = enumerate(manifests)
        runs = [pool.submit(run_build, scheduler, path, tmp_path / f"{seed}.zarr", seed=seed) for seed, path in seeds]
        assert [run.result().built for run in runs] == [6, 6]
    for seed in (0, 1):
        store = CorpusStore.open(tmp_path / f"{seed}.zarr")
        assert len(store.names()) == 6
        assert {(store.receipt(name) or {})["seed"] for name in store.names()} == {seed}


def test_what_a_run_did_is_in_its_log(scheduler, tmp_path):
    manifest, root = write_volumes(tmp_path, 3), tmp_path / "c.zarr"
    run_build(scheduler, manifest, root)
    lines = list(read_run(str(root), run_names(str(root))[-1]))
    assert [line["event"] for line in lines] == ["start", "volume", "volume", "volume", "end"]
    assert {line["name"] for line in lines[1:4]} == {"v0", "v1", "v2"}
    assert lines[0]["num_volumes"] == 3 and lines[-1]["built"] == 3
    status = read_status(str(root))
    assert (status.num_committed, status.num_unfinished, status.failures) == (3, 0, {})
    assert status.last_run is not None and status.last_run.ended and status.last_run.counts == {"built": 3}


def test_the_status_counts_volumes_whose_outcome_was_not_received(tmp_path):
    root = str(tmp_path / "c.zarr")
    summary = BuildSummary(root, 4, built=3, num_slices=9, interrupted=True)
    with RunLog(root, {"num_volumes": 4}) as log:
        log.record(Outcome("v0", "built", num_slices=3), "f" * 64, "recipe")
        seen = read_run_state(root, run_names(root)[-1])
        log.end(summary.to_json())
    assert (seen.counts, seen.num_slices, seen.ended) == ({"built": 1}, 3, False)
    ended = read_run_state(root, run_names(root)[-1])
    assert (ended.counts, ended.num_slices, ended.end) == ({"built": 3}, 9, "interrupted")


def fake_window(*finished):
    """Stands for `run_window`: gives these, in which a callable makes an outcome of its task."""

    def window(connection, function, tasks, name, **_):
        for task, what in zip(tasks, finished, strict=False):
            if isinstance(what, ClusterError):
                raise what
            yield what(task)
            yield None

    return window


def lost(task):
    return Finished(task, error=RuntimeError("killed"), worker_lost=True)


def crashed(task):
    return Finished(task, error=ZeroDivisionError("a defect\nof two lines"))


def full(task):
    return Finished(task, value=Outcome(task.name, "failed", "failed", "no space left", fault="disk_full"))


def test_a_volume_that_kills_its_workers_is_named_with_its_reason(scheduler, tmp_path, monkeypatch):
    manifest, root = write_volumes(tmp_path, 2), tmp_path / "c.zarr"
    monkeypatch.setattr("rephase.builder.run.run_window", fake_window(lost, crashed))
    summary = run_build(scheduler, manifest, root)
    assert (summary.exit_status, summary.failed["v0"].reason, summary.failed["v1"].reason) == (
        1,
        "worker_lost",
        "failed",
    )
    assert "run again with --retry-failed --memory-limit" in summary.failed["v0"].message
    assert "unexpected ZeroDivisionError: a defect of two lines" in summary.failed["v1"].message
    assert set(read_failures(str(root))) == {"v0", "v1"}


@pytest.mark.parametrize(
    ("what", "why"), [(full, "no space left; free space"), (ClusterError("the scheduler does not answer"), "scheduler")]
)
def test_what_no_volume_survives_stops_the_build_and_blames_no_volume(scheduler, tmp_path, monkeypatch, what, why):
    manifest, root = write_volumes(tmp_path, 3), tmp_path / "c.zarr"
    with monkeypatch.context() as patch:
        patch.setattr("rephase.builder.run.run_window", fake_window(what))
        summary = run_build(scheduler, manifest, root)
    assert (summary.exit_status, summary.num_open, summary.failed) == (1, 3, {})
    assert why in (summary.stopped or "") and "stopped with 3 volumes left" in "\n".join(summary.lines())
    assert run_build(scheduler, manifest, root).built == 3


def test_a_volume_that_vanished_at_the_end_is_reported_and_rebuilt(scheduler, tmp_path):
    manifest, root = write_volumes(tmp_path, 3), str(tmp_path / "c.zarr")
    options = BuildOptions(phase="smooth", cluster=scheduler)

    def remove(outcome: Outcome) -> None:
        if outcome.name == "v1":
            CorpusStore.open(root).discard("v1")

    work = replace(task_list(read_manifest(manifest), 1, retry_failed=False), seen=remove)
    with Lease(root) as lease:
        summary = run_tasks(work, resolve_build(root, options), lease, lambda _: None, progress=False)
    assert (summary.built, summary.vanished, summary.exit_status) == (3, ["v1"], 1)
    first, second = summary.lines()
    assert "2 of 3 volumes committed" in first
    assert "(v1)" in second
    assert read_index(root).names == ["v0", "v2"]
    assert list(read_run(root, run_names(root)[-1]))[-1]["vanished"] == ["v1"]
    again = run_build(scheduler, manifest, tmp_path / "c.zarr")
    assert (again.built, again.skipped, again.vanished, again.exit_status) == (1, 2, [], 0)
    assert verify_corpus(root).problems == []


@pytest.mark.parametrize("document", ["{", '{"attributes": {}, "node_type": "group", "zarr_format": 3}'])
def test_a_damaged_receipt_of_an_earlier_manifest_keeps_its_row_and_is_reported(scheduler, tmp_path, document):
    manifest, root = write_volumes(tmp_path, 3), tmp_path / "c.zarr"
    run_build(scheduler, manifest, root)
    before = read_index(root)
    (root / "volumes/v0/zarr.json").write_text(document)
    shorter = write_manifest(tmp_path / "shorter.csv", manifest.read_text().splitlines()[2:])
    summary = run_build(scheduler, shorter, root)
    assert (summary.skipped, summary.unreadable, summary.exit_status) == (2, ["v0"], 1)
    assert "(v0)" in summary.lines()[1]
    assert f"rephase repair {root}" in summary.lines()[1]
    assert read_index(root).names == ["v1", "v2", "v0"]
    assert read_index(root).row(2) == before.row(0)
    failing = run_build(scheduler, manifest, root)  # now it is requested: its own task reports the reason
    assert (failing.skipped, list(failing.failed), failing.unreadable) == (2, ["v0"], [])
    assert repair_corpus(str(root), RepairOptions(manifest=str(manifest))).restored == ["v0"]
    assert verify_corpus(root).problems == []


def test_a_second_builder_is_refused_while_the_first_one_works(scheduler, tmp_path):
    manifest, root = write_volumes(tmp_path, 1), tmp_path / "c.zarr"
    with Lease(str(root)), pytest.raises(RequestError, match="held by process"):
        run_build(scheduler, manifest, root)
    assert not root.exists()
    assert run_build(scheduler, manifest, root).built == 1


UNGUARDED = """
import sys
from pathlib import Path
import rephase
with Path(sys.argv[2]).open("a") as file:
    file.write("once")
summary = rephase.build(sys.argv[1], sys.argv[3], phase="zero", workers=1, dashboard_address=":0", progress=False)
sys.exit(summary.exit_status)
"""


def test_a_script_builds_without_a_guard_and_workers_do_not_run_it(tmp_path):
    script, ran = tmp_path / "script.py", tmp_path / "ran.txt"
    script.write_text(UNGUARDED)
    words = [sys.executable, script, write_volumes(tmp_path, 1), ran, tmp_path / "c.zarr"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert ran.read_text() == "once"
