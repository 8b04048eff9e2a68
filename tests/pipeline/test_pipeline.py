from __future__ import annotations

import errno
import math
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from build_process import wait_until
from tiny_network import TINY
from volumes import phantom, volume_bytes

from rephase.builder.options import BuildOptions
from rephase.builder.resolve import make_recipe, resolve_build
from rephase.builder.runlog import RunLog, read_failures
from rephase.corpus.layout import from_json
from rephase.corpus.lease import Lease
from rephase.corpus.store import CorpusStore
from rephase.diffusion.checkpoint import save_checkpoint
from rephase.diffusion.networks.unet import ComplexUNet
from rephase.errors import RequestError, VolumeError
from rephase.manifests.record import ManifestRow
from rephase.pipeline import build_volume as pipeline
from rephase.pipeline.build_volume import build_volume
from rephase.pipeline.environment import environment_class
from rephase.pipeline.memory import AdmissionLock, MemoryLimits, magnitude_limits
from rephase.pipeline.sampling import batches
from rephase.pipeline.task import ExpectedVolume, Task
from rephase.pipeline.worker import WorkerContext, open_worker


def make_worker(root, options: BuildOptions | None = None, **changes) -> WorkerContext:
    recipe = make_recipe(options or BuildOptions(phase="smooth"))
    if not (root / "zarr.json").exists():
        CorpusStore.create(root, recipe.attributes())
    return open_worker(str(root), recipe, environment_class("cpu"), **changes)


def make_row(folder, volume_id: str = "a", seed: int = 0, shape=(5, 20, 24), **columns) -> ManifestRow:
    path = folder / f"{volume_id}.npy"
    np.save(path, phantom(seed, shape))
    return ManifestRow(line=2, volume_id=volume_id, path=str(path), **columns)


def kspace_of(root, name: str) -> np.ndarray:
    import zarr

    return zarr.open_array(str(root / "volumes" / name / "kspace"), mode="r")[:]


def test_a_volume_is_built_with_everything_a_receipt_needs(tmp_path):
    row = make_row(tmp_path, subject_id="s1", split="val", contrast="T1", te_ms=12.5, licence="CC0-1.0")
    worker = make_worker(tmp_path / "c.zarr")
    outcome = build_volume(Task(row), worker)
    assert (outcome.status, outcome.num_slices, outcome.message) == ("built", 5, None)
    assert outcome.num_bytes == 5 * 20 * 24 * (8 + 4)
    assert {"read", "prepare", "sample", "kspace", "commit"} <= set(outcome.seconds)
    receipt = worker.store.receipt("a")
    assert receipt is not None
    wanted = {
        "patient_id": "s1",
        "split": "val",
        "contrast": "T1",
        "te_ms": 12.5,
        "phase_generator": "smooth",
        "nfe": 0,
    }
    assert {key: receipt[key] for key in wanted} == wanted
    target = phantom(0, (5, 20, 24)) / receipt["scale"]
    assert receipt["max"] == target.max()
    assert np.abs(np.abs(np.fft.ifft2(kspace_of(tmp_path / "c.zarr", "a"), norm="ortho")).max() - target.max()) < 1e-4


def test_nothing_of_the_source_but_its_pseudonyms_is_stored(tmp_path):
    folder = tmp_path / "patient-miller"
    folder.mkdir()
    row = make_row(folder, volume_id="x7", source="miller-archive", extra=(("site", "north"),))
    build_volume(Task(row), make_worker(tmp_path / "plain.zarr"))
    text = b"".join(path.read_bytes() for path in (tmp_path / "plain.zarr").rglob("zarr.json")).decode()
    assert "miller" not in text and "north" not in text and str(tmp_path) not in text
    assert '"patient_id": "x7"' in text
    kept = BuildOptions(phase="smooth", keep_columns=("site",))
    outcome = build_volume(Task(row), make_worker(tmp_path / "kept.zarr", kept))
    assert outcome.receipt is not None and outcome.receipt["columns"] == {"site": "north"}


@pytest.mark.parametrize("phase", ["smooth", "smooth-noise", "field", "sinus", "white", "zero"])
def test_batch_size_changes_no_byte(tmp_path, phase):
    row, options = make_row(tmp_path, shape=(7, 19, 21)), BuildOptions(phase=phase)
    for size in (None, 1, 3, 100):
        build_volume(Task(row), make_worker(tmp_path / f"{size}.zarr", options, batch_size=size))
    expected = volume_bytes(tmp_path / "None.zarr")
    assert len(expected) == 6  # two arrays of a document and a shard, the receipt, the group above
    for size in (1, 3, 100):
        assert volume_bytes(tmp_path / f"{size}.zarr") == expected


def test_seed_replica_and_id_give_other_phase_and_the_same_magnitude(tmp_path):
    row = make_row(tmp_path)
    tasks = {"a": Task(row), "a@1": Task(row, 1), "b": Task(replace(row, volume_id="b"))}
    worker = make_worker(tmp_path / "c.zarr")
    for name, task in tasks.items():
        assert (task.name, build_volume(task, worker).status) == (name, "built")
    build_volume(Task(row), make_worker(tmp_path / "other.zarr", BuildOptions(phase="smooth", seed=1)))
    found = [kspace_of(tmp_path / "c.zarr", name) for name in tasks] + [kspace_of(tmp_path / "other.zarr", "a")]
    magnitudes = [np.abs(np.fft.ifft2(one, norm="ortho")) for one in found]
    for number, one in enumerate(found[1:], 1):
        np.testing.assert_allclose(magnitudes[number], magnitudes[0], atol=1e-5 * magnitudes[0].max())
        assert all(np.abs(one - other).max() > 0.01 for other in found[:number])


@pytest.mark.parametrize(("num_slices", "batch_size", "tile"), [(7, None, 1), (40, 5, 16), (16, 16, 16), (33, 17, 16)])
def test_batches_are_whole_tiles_and_cover_everything_once(num_slices, batch_size, tile):
    parts = list(batches(num_slices, batch_size, tile))
    assert [i for part in parts for i in range(part.start, part.stop)] == list(range(num_slices))
    assert all(part.start % tile == 0 for part in parts)
    assert batch_size is None or all(part.stop - part.start <= -(-batch_size // tile) * tile for part in parts)


def test_committed_volume_is_skipped_wherever_its_file_lies(tmp_path):
    row = make_row(tmp_path)
    worker = make_worker(tmp_path / "c.zarr")
    build_volume(Task(row), worker)
    (tmp_path / "a.npy").rename(tmp_path / "moved.npy")
    before = volume_bytes(tmp_path / "c.zarr")
    outcome = build_volume(Task(replace(row, path=str(tmp_path / "moved.npy"), line=9)), worker)
    assert (outcome.status, outcome.num_slices) == ("skipped", 5)
    assert volume_bytes(tmp_path / "c.zarr") == before


def test_changed_source_row_or_recipe_is_explained_and_overwritten_only_on_request(tmp_path):
    row, root = make_row(tmp_path, split="train"), tmp_path / "c.zarr"
    worker = make_worker(root)
    build_volume(Task(row), worker)

    outcome = build_volume(Task(replace(row, split="test", subject_id="s9")), worker)
    assert (outcome.status, outcome.reason) == ("failed", "changed")
    assert (
        "split: corpus has 'train', requested 'test'" in outcome.message
        and "subject_id: corpus has 'a'" in outcome.message
    )

    seeded = make_worker(root, BuildOptions(phase="smooth", seed=3))
    assert "another recipe" in build_volume(Task(row), seeded).message

    np.save(row.path, phantom(5))
    outcome = build_volume(Task(row), worker)
    assert outcome.reason == "changed" and "other bytes of the source" in outcome.message
    assert "--overwrite" in outcome.message
    before = volume_bytes(root)
    assert build_volume(Task(row), replace(worker, overwrite=True)).status == "built"
    assert volume_bytes(root) != before
    assert build_volume(Task(row), replace(worker, overwrite=True)).status == "skipped"


def test_a_regression_is_built_from_the_weights_that_ship(tmp_path):
    options = BuildOptions(phase="regression")
    worker = make_worker(tmp_path / "c.zarr", options, checkpoint=resolve_build("", options).checkpoint)
    outcome = build_volume(Task(make_row(tmp_path, shape=(2, 20, 24))), worker)
    assert outcome.receipt is not None, outcome.message
    assert (outcome.receipt["phase_generator"], outcome.receipt["nfe"]) == ("regression", 1)
    image = np.fft.ifft2(np.fft.ifftshift(kspace_of(tmp_path / "c.zarr", "a"), (-2, -1)), norm="ortho")
    assert np.abs(image.imag).max() > 0.1


def test_real_phase_is_the_rows_own(tmp_path):
    phase = np.random.default_rng(1).uniform(-3, 3, (5, 20, 24)).astype(np.float32)
    np.save(tmp_path / "phase.npy", phase)
    row = make_row(tmp_path, phase=str(tmp_path / "phase.npy"))
    worker = make_worker(tmp_path / "c.zarr", BuildOptions(phase="real"))
    outcome = build_volume(Task(row), worker)
    assert outcome.status == "built", outcome.message
    axes = (-2, -1)
    kspace = np.fft.ifftshift(kspace_of(tmp_path / "c.zarr", "a"), axes)
    image = np.fft.fftshift(np.fft.ifft2(kspace, norm="ortho"), axes)
    inside = np.abs(image) > 0.01
    assert inside.any()
    np.testing.assert_allclose((image * np.exp(-1j * phase))[inside].imag, 0, atol=1e-5)


def test_real_phase_needs_a_row_with_phase(tmp_path):
    outcome = build_volume(Task(make_row(tmp_path)), make_worker(tmp_path / "c.zarr", BuildOptions(phase="real")))
    assert (outcome.status, outcome.reason) == ("failed", "mismatch")
    assert "--phase real" in outcome.message


def test_bad_volumes_become_outcomes_with_a_reason(tmp_path):
    worker = make_worker(tmp_path / "c.zarr")
    negative = phantom(0)
    negative[1, 2, 3] = -1
    infinite = phantom(0)
    infinite[0, 0, 0] = np.inf
    np.save(tmp_path / "negative.npy", negative)
    np.save(tmp_path / "infinite.npy", infinite)
    (tmp_path / "text.npy").write_text("no array")
    found = {}
    for name in ("negative", "infinite", "text", "absent"):
        outcome = build_volume(Task(ManifestRow(1, name, str(tmp_path / f"{name}.npy"))), worker)
        found[name] = (outcome.status, outcome.reason)
        assert outcome.message and "\n" not in outcome.message
    assert found == {
        "negative": ("failed", "negative"),
        "infinite": ("failed", "not_finite"),
        "text": ("failed", "unreadable"),
        "absent": ("failed", "missing"),
    }
    assert worker.store.names() == []


def test_clipped_negatives_are_allowed_and_flagged(tmp_path):
    magnitude = phantom(0)
    magnitude[1, 2, 3] = -1
    np.save(tmp_path / "a.npy", magnitude)
    worker = make_worker(tmp_path / "c.zarr", BuildOptions(phase="smooth", negative="clip"))
    outcome = build_volume(Task(ManifestRow(1, "a", str(tmp_path / "a.npy"))), worker)
    assert outcome.status == "built"
    assert outcome.receipt["audit"]["clipped_negatives"] == {"count": 1, "min": -1.0}


def failing(times: int, error: BaseException, then):
    calls = []

    def read(row, limit_bytes=None):
        calls.append(row)
        if len(calls) <= times:
            raise error
        return then(row, limit_bytes)

    return calls, read


def unreadable(cause: BaseException) -> VolumeError:
    error = VolumeError("unreadable", "a.npy: cannot be fetched")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (OSError(errno.EIO, "input/output error"), True),
        (ConnectionResetError("gone"), True),
        (unreadable(OSError(errno.ESTALE, "stale file handle")), True),
        (unreadable(OSError("Not a gzipped file")), False),
        (VolumeError("unreadable", "truncated"), False),
        (FileNotFoundError(errno.ENOENT, "no such file"), False),
        (PermissionError(errno.EACCES, "permission denied"), False),
        (OSError(errno.ENOSPC, "no space left"), False),
        (ValueError("a defect"), False),
    ],
)
def test_only_faults_that_may_pass_are_tried_again(tmp_path, monkeypatch, error, passes):
    monkeypatch.setattr(pipeline, "RETRY_DELAYS_S", (0.0, 0.0))
    calls, read = failing(2, error, pipeline.read_volume)
    monkeypatch.setattr(pipeline, "read_volume", read)
    outcome = build_volume(Task(make_row(tmp_path)), make_worker(tmp_path / "c.zarr"))
    assert (outcome.status, len(calls)) == (("built", 3) if passes else ("failed", 1))
    assert (outcome.fault == "disk_full") == (getattr(error, "errno", None) == errno.ENOSPC)


def test_a_lasting_error_fails_the_volume_after_two_retries(tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "RETRY_DELAYS_S", (0.0, 0.0))
    calls, read = failing(9, OSError(errno.EIO, "input/output error"), pipeline.read_volume)
    monkeypatch.setattr(pipeline, "read_volume", read)
    outcome = build_volume(Task(make_row(tmp_path)), make_worker(tmp_path / "c.zarr"))
    assert (outcome.status, outcome.reason, len(calls)) == ("failed", "failed", 3)
    assert "input/output error" in outcome.message


def test_large_volume_gets_the_worker_for_itself_and_a_larger_one_is_refused(tmp_path):
    row = make_row(tmp_path, shape=(4, 32, 32))
    limits = MemoryLimits(shared=8_000, exclusive=17_000)  # 4 * 32 * 32 * 4 = 16,384 bytes
    assert build_volume(Task(row), make_worker(tmp_path / "c.zarr", limits=limits)).status == "built"
    outcome = build_volume(
        Task(row), make_worker(tmp_path / "d.zarr", limits=MemoryLimits(shared=8_000, exclusive=16_000))
    )
    assert (outcome.status, outcome.reason) == ("failed", "too_large")
    assert "; give workers more memory: run again with --retry-failed --memory-limit SIZE" in outcome.message


def test_limits_leave_a_task_its_share():
    limits = magnitude_limits(8 * 2**30, threads=2)
    assert limits.exclusive is not None and limits.shared == limits.exclusive // 2
    assert magnitude_limits(None, 4) == MemoryLimits(None, None)


def test_the_admission_lock_lets_one_in_alone_and_keeps_newcomers_out():
    lock, log, leave = AdmissionLock(), [], threading.Event()

    def work(name, gate):
        with gate():
            log.append(f"{name} in")
            leave.wait()
            log.append(f"{name} out")

    def start(name, gate, until):
        thread = threading.Thread(target=work, args=(name, gate), daemon=True)
        thread.start()
        wait_until(until)
        return thread

    def waiting():
        return len(lock._changed._waiters)

    threads = [
        start("a", lock.shared, lambda: log == ["a in"]),
        start("alone", lock.exclusive, lambda: waiting() == 1),
        start("b", lock.shared, lambda: waiting() == 2 or "b in" in log),
    ]
    leave.set()
    for thread in threads:
        thread.join()
    assert log == ["a in", "a out", "alone in", "alone out", "b in", "b out"]


def test_receipt_is_what_the_store_wrote(tmp_path):
    outcome = build_volume(Task(make_row(tmp_path)), make_worker(tmp_path / "c.zarr"))
    document = from_json((tmp_path / "c.zarr" / "volumes" / "a" / "zarr.json").read_bytes())
    assert outcome.receipt == document["attributes"]


@pytest.fixture
def checkpoint(tmp_path):
    return save_tiny(tmp_path / "tiny.safetensors", seed=0)


def save_tiny(path, seed: int):
    torch.manual_seed(seed)
    save_checkpoint(ComplexUNet(TINY), torch.tensor([[math.nan, 2.0, 0.01, 0.02, 0.1]]), {"name": "tiny"}, path)
    return path


def test_a_networks_bytes_do_not_depend_on_the_batch_but_on_seed_and_steps(tmp_path, checkpoint):
    row = make_row(tmp_path, shape=(5, 19, 21))
    base = BuildOptions(checkpoint=checkpoint, steps=2)
    for size in (None, 1, 2):
        outcome = build_volume(
            Task(row), make_worker(tmp_path / f"{size}.zarr", base, checkpoint=checkpoint, batch_size=size)
        )
        assert outcome.status == "built", outcome.message
        assert (outcome.receipt["phase_generator"], outcome.receipt["nfe"]) == ("diffusion", 2)
    expected = volume_bytes(tmp_path / "None.zarr")
    assert volume_bytes(tmp_path / "1.zarr") == volume_bytes(tmp_path / "2.zarr") == expected
    for name, options in {"seed": replace(base, seed=1), "steps": replace(base, steps=1)}.items():
        build_volume(Task(row), make_worker(tmp_path / f"{name}.zarr", options, checkpoint=checkpoint))
        other = volume_bytes(tmp_path / f"{name}.zarr")
        assert other["a/kspace/c.0.0.0"] != expected["a/kspace/c.0.0.0"]
        assert other["a/reconstruction_esc/c.0.0.0"] == expected["a/reconstruction_esc/c.0.0.0"]


def test_weights_that_overflow_fail_the_volume(tmp_path, checkpoint):
    torch.manual_seed(0)
    network = ComplexUNet(TINY)
    with torch.no_grad():
        for value in network.parameters():
            value.mul_(1e37)
    save_checkpoint(network, torch.tensor([[2.0, 2.0, 0.01, 0.02, 0.1]]), {"name": "huge"}, checkpoint)
    worker = make_worker(tmp_path / "c.zarr", BuildOptions(checkpoint=checkpoint, steps=2), checkpoint=checkpoint)
    outcome = build_volume(Task(make_row(tmp_path)), worker)
    assert (outcome.status, outcome.reason) == ("failed", "not_finite")
    assert "is not finite; expected finite phase" in outcome.message
    assert worker.store.names() == []


def test_a_worker_with_other_weights_is_refused(tmp_path, checkpoint):
    other = save_tiny(tmp_path / "other.safetensors", seed=1)
    with pytest.raises(RequestError, match="not the weights of the recipe"):
        make_worker(tmp_path / "c.zarr", BuildOptions(checkpoint=checkpoint), checkpoint=other)


def test_a_fault_of_the_corpus_storage_is_not_held_against_the_volume(tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "RETRY_DELAYS_S", (0.0, 0.0))
    worker, calls = make_worker(tmp_path / "c.zarr"), []
    put, task = worker.store.storage.put, Task(make_row(tmp_path))

    def fail(key, data):
        calls.append(key)
        raise OSError(errno.EIO, "input/output error", key)

    monkeypatch.setattr(worker.store.storage, "put", fail)
    outcome = build_volume(task, worker)
    assert (outcome.status, outcome.reason, outcome.fault, len(calls)) == ("failed", "storage", "storage", 3)
    with RunLog(str(tmp_path / "c.zarr"), {}) as log:
        assert log.record_fault(outcome, "r").reason == "storage"
        assert log.failures == {}
    assert read_failures(str(tmp_path / "c.zarr")) == {}
    monkeypatch.setattr(worker.store.storage, "put", put)
    monkeypatch.setattr(worker.store.storage, "get", lambda key: fail(key, b""))
    assert build_volume(task, worker).fault == "storage"


def test_a_worker_that_lost_the_lease_says_so(tmp_path):
    with Lease(tmp_path / "c.zarr") as lease:
        worker = make_worker(tmp_path / "c.zarr", token=lease.token)
        assert build_volume(Task(make_row(tmp_path)), worker).status == "built"
    outcome = build_volume(replace(Task(make_row(tmp_path)), replica=1), worker)
    assert (outcome.status, outcome.fault) == ("failed", "lease")


def test_a_repair_refuses_another_source_before_it_reads_a_pixel(tmp_path, monkeypatch):
    worker = make_worker(tmp_path / "c.zarr")
    task = Task(make_row(tmp_path))
    receipt = build_volume(task, worker).receipt
    expected = ExpectedVolume(row_hash="0" * 64, recipe_hash=receipt["recipe_hash"], environment=receipt["environment"])
    monkeypatch.setattr(pipeline, "read_volume", lambda *_: pytest.fail("pixels were read"))
    outcome = build_volume(replace(task, expected=expected), worker)
    assert (outcome.reason, "its source or its manifest row differs" in outcome.message) == ("changed", True)
    expected = replace(expected, row_hash=receipt["row_hash"], recipe_hash="0" * 64)
    assert "by another recipe" in build_volume(replace(task, expected=expected), worker).message
