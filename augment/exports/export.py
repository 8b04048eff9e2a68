"""Export a corpus volume by volume: finished volumes are skipped, failures are listed."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rephase.corpus.index import read_index
from rephase.corpus.store import CorpusStore
from rephase.errors import RequestError, VolumeError, is_disk_full
from rephase.exports.committed import CommittedVolume
from rephase.exports.folder import ExportFolder
from rephase.exports.formats import EXPORTS, Exporter, ExportFormat
from rephase.exports.selection import ExportItem, select_volumes
from rephase.text import format_bytes, format_seconds, is_url, one_line

VERSION = 2
"""Version of the exported files; increasing it marks earlier exports as stale."""

_SHOWN = 20


@dataclass
class ExportSummary:
    """The result of an export.

    Attributes
    ----------
    corpus, folder
        The corpus and the directory of the export.
    num_volumes
        Number of requested volumes.
    written, skipped
        Number of volumes written by this run; of volumes finished before.
    failed
        Volume to (reason, message).
    num_slices, num_bytes
        Totals of the volumes written by this run; bytes before compression.
    seconds
        Wall time in seconds.
    interrupted
        True if the user stopped it.
    stopped
        Reason for stopping early, else None.
    """

    corpus: str
    folder: str
    num_volumes: int
    written: int = 0
    skipped: int = 0
    failed: dict[str, tuple[str, str]] = field(default_factory=dict)
    num_slices: int = 0
    num_bytes: int = 0
    seconds: float = 0.0
    interrupted: bool = False
    stopped: str | None = None

    @property
    def exit_status(self) -> int:
        """Exit status of the command: 0 complete, 1 volumes failed or were not reached, 130 interrupted."""
        if self.interrupted:
            return 130
        return 1 if self.failed or self.stopped else 0

    def to_json(self) -> dict[str, Any]:
        """Return all fields as a JSON object."""
        failed = {name: {"reason": reason, "message": message} for name, (reason, message) in self.failed.items()}
        return {**asdict(self), "failed": failed, "exit_status": self.exit_status}

    def lines(self) -> list[str]:
        """Format the summary as lines of text."""
        done = self.written + self.skipped
        if self.written:
            size = f"{self.num_slices} slices, {format_bytes(self.num_bytes)} before compression"
            new = f": {self.written} written ({size}, {format_seconds(self.seconds)}), {self.skipped} up to date"
        else:
            new = ", all up to date" if self.skipped and not self.failed else ""
        lines = [f"{self.folder}: {done} of {self.num_volumes} volumes{new}"]
        lines += [f"  {name}: {reason}: {message}" for name, (reason, message) in list(self.failed.items())[:_SHOWN]]
        if len(self.failed) > _SHOWN:
            lines.append(f"  {len(self.failed) - _SHOWN} more failed; --json lists all")
        if self.stopped:
            remaining = self.num_volumes - done - len(self.failed)
            lines.append(f"stopped with {remaining} volumes not exported: {self.stopped}")
        return lines


@dataclass(frozen=True)
class ExportOptions:
    """The options of an export.

    Attributes
    ----------
    file_format
        A key of `EXPORTS`.
    splits, contrasts, volumes
        Export only the volumes of these; None exports all.
    by_split
        Whether each split has its own sub-directory.
    compression
        One of the format's `compressions`.
    """

    file_format: str = next(iter(EXPORTS))
    splits: Collection[str] | None = None
    contrasts: Collection[str] | None = None
    volumes: Collection[str] | None = None
    by_split: bool = False
    compression: str = "none"


def export_corpus(
    root: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    options: ExportOptions | None = None,
    progress: Callable[[Iterable[ExportItem]], Iterable[ExportItem]] = iter,
) -> ExportSummary:
    """Write volumes of a corpus as files of another format; a repeated call resumes.

    Parameters
    ----------
    root
        Path or URL of the corpus.
    folder
        A local directory; created if it does not exist.
    options
        Default: all volumes in fastMRI's format.
    progress
        Wraps the list of volumes, as `tqdm` does.

    Returns
    -------
    summary
        Volumes written, skipped and failed. An interrupt and a full disk end the export and are reported in it.

    Raises
    ------
    RequestError
        If there is no such corpus, no volume is selected, or the directory cannot be used; no file was written.
    """
    options = options or ExportOptions()
    file_format = _check_format(options)
    exporter = file_format.load(options.file_format)
    where = _local_folder(folder, root)
    filters = {"split": options.splits, "contrast": options.contrasts, "name": options.volumes}
    items = select_volumes(read_index(root), where, file_format.suffix, options.by_split, filters)
    store = CorpusStore.open(root)
    summary = ExportSummary(store.root, str(where), len(items))
    start = time.monotonic()
    with ExportFolder.locked(where) as place:
        try:
            for item in progress(items):
                _export(item, store, place, exporter, options, summary)
                if summary.stopped:
                    break
        except KeyboardInterrupt:
            summary.interrupted = True
    summary.seconds = time.monotonic() - start
    return summary


def _check_format(options: ExportOptions) -> ExportFormat:
    name = options.file_format
    if name not in EXPORTS:
        raise RequestError(f"--format {name}: unknown; expected {', '.join(EXPORTS)}")
    if options.compression not in EXPORTS[name].compressions:
        expected = " or ".join(EXPORTS[name].compressions)
        raise RequestError(f"--compression {options.compression}: --format {name} has none such; expected {expected}")
    return EXPORTS[name]


def _local_folder(folder: str | os.PathLike[str], root: str | os.PathLike[str]) -> Path:
    text = os.fspath(folder)
    if is_url(text):
        raise RequestError(f"{text}: is a URL; expected a local directory; export to one and copy it")
    path = Path(os.path.abspath(text))  # noqa: PTH100 - without following links
    if path.exists() and not path.is_dir():
        raise RequestError(f"{path}: is a file; expected a directory; choose another path")
    if path.resolve().is_relative_to(Path(os.fspath(root)).resolve()):
        raise RequestError(f"{path}: is inside the corpus; expected a directory of its own; choose another path")
    return path


def _export(
    item: ExportItem,
    store: CorpusStore,
    place: ExportFolder,
    exporter: Exporter,
    options: ExportOptions,
    summary: ExportSummary,
) -> None:
    """Export or skip one volume; record an error that concerns this volume alone."""
    try:
        if _is_finished(item, exporter, options):
            summary.skipped += 1
            return
        volume = CommittedVolume.open(store, item.name, item.receipt_sha256)
        with place.writing(item.target) as partial:
            exporter.write(volume, partial, _stamp(volume.receipt_sha256, options), options.compression)
        summary.written += 1
        summary.num_slices += volume.shape("kspace")[0]
        summary.num_bytes += volume.num_bytes
    except VolumeError as error:
        summary.failed[item.name] = (error.reason, str(error))
    except (OSError, RuntimeError) as error:  # h5py raises both
        if is_disk_full(error):
            summary.stopped = f"{place.folder}: the disk is full ({one_line(error)}); free space or use another disk"
        else:
            summary.failed[item.name] = ("failed", f"{item.target}: {one_line(error)}; run the same command again")


def _stamp(receipt_sha256: str, options: ExportOptions) -> str:
    """Return the text by which a later run recognises a file of the same bytes and options."""
    made_by = {"format": options.file_format, "compression": options.compression, "version": VERSION}
    return json.dumps({"receipt_sha256": receipt_sha256, **made_by}, sort_keys=True)


def _is_finished(item: ExportItem, exporter: Exporter, options: ExportOptions) -> bool:
    if not item.target.exists():
        return False
    try:
        stamp = exporter.read_stamp(item.target)
    except OSError:  # damaged: it is rewritten
        return False
    if stamp is None:
        raise VolumeError(
            "changed",
            f"{item.target}: was not written by an export; expected no file or an earlier export; remove it or choose "
            "another directory",
        )
    return stamp == _stamp(item.receipt_sha256, options)
