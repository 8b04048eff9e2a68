"""Build one volume: read, prepare, sample phase, transform, commit. Independent of Dask; runs in a debugger."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from importlib import import_module
from typing import Any

import numpy as np
import torch

from rephase.corpus.decoding import decode_shard
from rephase.corpus.layout import ArrayLayout, ome_metadata
from rephase.corpus.receipt import target_statistics
from rephase.corpus.store import encode_array
from rephase.diffusion.generators import Conditions, SliceKey
from rephase.errors import RETRY_WITH_MEMORY, CorpusStorageError, LeaseLostError, Reason, VolumeError, is_disk_full
from rephase.facts import known_facts, receipt_facts
from rephase.pipeline.audit import apply_rule, audit_values, audit_volume, seen_share
from rephase.pipeline.kspace import make_kspace
from rephase.pipeline.magnitude import PreparedMagnitude, prepare_magnitude
from rephase.pipeline.memory import volume_factor
from rephase.pipeline.recipe import row_hash
from rephase.pipeline.resume import check_restored, corpus_storage, find_committed
from rephase.pipeline.sampling import conditions_of, facts_of, sample_phasor, timed
from rephase.pipeline.scan import ScannedVolume, scan_volume
from rephase.pipeline.task import Fault, Outcome, Task, failed_outcome
from rephase.pipeline.worker import WorkerContext
from rephase.readers.registry import read_volume
from rephase.readers.volume import Volume
from rephase.text import one_line

_PLANES = {"S": "AX", "I": "AX", "R": "SAG", "L": "SAG", "A": "COR", "P": "COR"}


def make_attributes(
    task: Task,
    volume: Volume,
    prepared: PreparedMagnitude,
    scanned: ScannedVolume,
    audit: dict[str, Any],
    worker: WorkerContext,
) -> dict[str, Any]:
    """Return the receipt's attributes except those added by the store; only pseudonyms and hashes of the source."""
    row, recipe = task.row, worker.recipe
    num_slices, height, width = prepared.stored.shape
    known = known_facts(row, volume)
    conditions = conditions_of(volume, recipe.algorithm)
    known["sequence_assumed"] = None if known["sequence"] else conditions.sequence
    if recipe.algorithm < 8:  # receipts of earlier versions lack it
        known["sequence"] = None
    known |= scanned.facts
    generator = worker.generator_for(conditions.sequence)
    if recipe.algorithm >= 10:
        known["weights_licence"] = None if generator is None else generator.licence
        seen = None if worker.generator is None else worker.generator.seen
        facts = facts_of(volume, conditions, known["anatomy"])
        known["out_of_distribution"] = None if seen is None else seen.score(facts)
    other = None if generator is worker.generator else generator  # where the recipe's does not cover the family
    maximum, norm = target_statistics(prepared.stored if scanned.target is None else scanned.target)
    attributes: dict[str, Any] = {
        "row_hash": row_hash(row, volume.source_sha256),
        "recipe_hash": recipe.hash,
        "source_sha256": volume.source_sha256,
        "environment": worker.environment,
        "acquisition": _PLANES.get(volume.orientation[:1], "") + (volume.contrast or ""),
        "max": maximum,
        "norm": norm,
        "patient_id": row.subject_id or row.volume_id,
        **receipt_facts(known),
        "spacing_mm": [float(step) for step in volume.spacing_mm],
        "affine": [[float(value) for value in line] for line in volume.affine],
        "orientation": volume.orientation,
        "transposed": volume.transposed,
        "phase_encode": volume.phase_encode,
        "scale": prepared.scale,
        "phase_generator": recipe.phase if other is None else other.name,
        "nfe": recipe.nfe if other is None else other.nfe,
        "noise_sigma": 0.0,
        "oversampling": 1.0,
        "encoding_size": [height, width, 1],
        "recon_size": [height, width, 1],
        "padding_left": 0,
        "padding_right": width,
        "storage": "kspace",
        "audit": audit,
        "num_slices": num_slices,
        "seed": recipe.seed,
        "replica": task.replica,
        **scanned.attributes,
    }
    if recipe.algorithm >= 9:
        attributes["name"] = task.name
    if recipe.algorithm >= 13:
        target = "reconstruction_rss" if "reconstruction_rss" in scanned.arrays else "reconstruction_esc"
        attributes["ome"] = ome_metadata(target, attributes["spacing_mm"])
    if recipe.keep_columns:
        attributes["columns"] = {name: value for name, value in row.extra if name in recipe.keep_columns}
    return attributes


RETRY_DELAYS_S = (0.5, 2.0)
"""Waits before a volume is retried after a transient error, such as a file server that does not answer."""

_TRANSIENT = {
    errno.EAGAIN, errno.EBUSY, errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET, errno.EHOSTUNREACH,
    errno.EINTR, errno.EIO, errno.EMFILE, errno.ENETDOWN, errno.ENETUNREACH, errno.ENFILE, errno.ENOBUFS,
    errno.EPIPE, errno.EREMOTEIO, errno.ESTALE, errno.ETIMEDOUT,
}  # fmt: skip
_PERMANENT = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)


def build_volume(task: Task, worker: WorkerContext) -> Outcome:
    """Build one volume and commit it, or skip it if it is committed. Return errors of the volume as an outcome.

    Parameters
    ----------
    task
        The row and replica.
    worker
        Context of this process.

    Returns
    -------
    outcome
        `failed`, with a stable reason and a message of one line, for any error of this volume alone.
    """
    with worker.watchdog.volume(task.name):
        return _build_with_retries(task, worker)


def _build_with_retries(task: Task, worker: WorkerContext) -> Outcome:
    """Build one volume; retry after a transient error."""
    delays = iter(RETRY_DELAYS_S)
    while True:
        seconds: dict[str, float] = {}
        try:
            return _build(task, worker, seconds)
        except Exception as error:  # no error of one volume may stop the others
            delay = next(delays, None) if is_transient(error) else None
            if delay is None:
                return _failed(task, error, seconds)
        time.sleep(delay)


def warm_up(worker: WorkerContext) -> None:
    """Call every library once, before several threads use it.

    Libraries load and register parts of themselves at their first use, and not all of them do so thread-safely.
    """
    import_module("rephase.readers.nifti.read")
    magnitude = np.ones((1, 16, 16), dtype=np.float32)
    prepared = prepare_magnitude(magnitude)
    phasor = np.ones(magnitude.shape, dtype=np.complex64)
    if worker.generator is not None:
        key = SliceKey(0, "warm-up", 0, 0)
        phasor = worker.generator.sample_phase(torch.from_numpy(magnitude), [key], Conditions()).cpu().numpy()
    kspace = make_kspace(prepared.stored, phasor)
    layout = ArrayLayout.of("kspace", kspace.shape)
    for _, chunks, data in encode_array(layout, kspace):
        list(decode_shard(data, layout, len(chunks)))


def is_transient(error: BaseException) -> bool:
    """Check whether a retry may succeed: input or output failed, but the file exists."""
    if isinstance(error, VolumeError):
        cause = error.__cause__
        known = isinstance(cause, OSError) and cause.errno in _TRANSIENT
        return known or isinstance(cause, ConnectionError | TimeoutError)
    found = error.__cause__ if isinstance(error, CorpusStorageError) else error
    return isinstance(found, OSError) and not isinstance(found, _PERMANENT) and not is_disk_full(found)


def _build(task: Task, worker: WorkerContext, seconds: dict[str, float]) -> Outcome:
    with timed(seconds, "lookup"):
        present = find_committed(task, worker)
    if present is not None:
        return Outcome(task.name, "skipped", num_slices=present["num_slices"], seconds=seconds, receipt=present)
    limits = worker.limits
    try:
        with _holding(worker.admission.shared(), worker):
            return _make(task, worker, limits.shared, seconds)
    except VolumeError as error:
        if error.reason != "too_large" or limits.shared == limits.exclusive:
            raise
    start = time.perf_counter()
    with _holding(worker.admission.exclusive(), worker):
        seconds["waiting"] = time.perf_counter() - start
        return _make(task, worker, limits.exclusive, seconds)


def _make(task: Task, worker: WorkerContext, limit_bytes: int | None, seconds: dict[str, float]) -> Outcome:
    with timed(seconds, "read"):
        read = worker.read or read_volume
        volume = read(task.row, None if limit_bytes is None else volume_factor(worker.recipe) * limit_bytes)
        _check_size(task, volume.magnitude.nbytes, limit_bytes)
    num_slices, height, width = volume.magnitude.shape
    worker.watchdog.allow(num_slices, height, width)
    worker.counters.count_read((num_slices, height, width))
    with timed(seconds, "prepare"):
        prepared = prepare_magnitude(volume.magnitude, worker.recipe.negative)
        if worker.recipe.algorithm < 12:  # earlier versions audited headers only
            audit = audit_volume(volume, prepared.clipped)
        else:
            audit = audit_values(volume, prepared)
            volume, prepared, audit = apply_rule(volume, prepared, audit, worker.recipe.on_crime)
    phasor = sample_phasor(task, volume, prepared.stored, worker, seconds, seen_share(audit))
    with timed(seconds, "kspace"):
        scanned = scan_volume(task, volume, prepared.stored, phasor, worker)
        del phasor
        arrays = scanned.arrays
        if volume.segmentation is not None:
            arrays["segmentation"] = volume.segmentation
        attributes = make_attributes(task, volume, prepared, scanned, audit, worker)
    with timed(seconds, "commit"):
        check_restored(task, worker, arrays, attributes)
        with corpus_storage():
            receipt = worker.store.commit_volume(task.name, arrays, attributes)
    num_bytes = sum(values.nbytes for values in arrays.values())
    return Outcome(
        task.name,
        "built",
        num_slices=num_slices,
        num_bytes=num_bytes,
        num_pixels=num_slices * height * width,
        seconds=seconds,
        receipt=receipt,
    )


def _check_size(task: Task, num_bytes: int, limit_bytes: int | None) -> None:
    """Check the memory that the steps after reading need for this magnitude; the reader checked only its own."""
    if limit_bytes is not None and num_bytes > limit_bytes:
        raise VolumeError(
            "too_large",
            f"{task.where}: takes {num_bytes / 1e6:.0f} MB as float32; expected at most {limit_bytes / 1e6:.0f} MB; "
            "give workers more memory",
        )


def _failed(task: Task, error: BaseException, seconds: dict[str, float]) -> Outcome:
    text = one_line(error, 1000)
    reason: Reason = "failed"
    if isinstance(error, CorpusStorageError):
        reason, message = "storage", f"{task.where}: {text}; check the corpus's disk, and run the same command again"
    elif isinstance(error, VolumeError):
        reason = error.reason
        # raised from pixels alone, without the name of the volume
        message = f"{task.where}: {text}" if reason in ("negative", "not_finite", "processed") else text
    elif isinstance(error, MemoryError):
        reason, message = "too_large", f"{task.where}: ran out of memory; give workers more memory"
    elif isinstance(error, OSError):
        reason = "missing" if isinstance(error, FileNotFoundError) else "failed"
        message = f"{task.where}: {text}"
    else:
        message = f"{task.where}: unexpected {type(error).__name__}: {text}"
    if reason == "too_large":  # every such message ends in "give workers more memory"; this adds the option
        message = f"{message}: {RETRY_WITH_MEMORY}"
    return failed_outcome(task, reason, message, fault=_fault(error), seconds=seconds)


def _fault(error: BaseException) -> Fault | None:
    if isinstance(error, LeaseLostError):
        return "lease"
    if is_disk_full(error) or (isinstance(error, VolumeError) and is_disk_full(error.__cause__ or error)):
        return "disk_full"  # also that of the temporary files of a source that is fetched
    return "storage" if isinstance(error, CorpusStorageError) else None


@contextmanager
def _holding(lock: AbstractContextManager[None], worker: WorkerContext) -> Iterator[None]:
    """Acquire the lock for a `with` block; waiting for it does not count towards the time limit."""
    with ExitStack() as stack:
        with worker.watchdog.paused():
            stack.enter_context(lock)
        yield
