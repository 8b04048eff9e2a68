"""The export of a corpus, volume by volume: what is finished is skipped, what fails is listed."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from rephase.corpus.index import read_index
from rephase.corpus.store import CorpusStore
from rephase.errors import RequestError, VolumeError, is_disk_full
from rephase.exports.folder import Place
from rephase.exports.selection import Wanted, choose
from rephase.exports.source import SourceVolume
from rephase.exports.stamp import Stamp
from rephase.text import format_bytes, format_seconds, is_url, one_line

_SHOWN = 20


@dataclass
class ExportSummary:
    """What an export did.

    Attributes
    ----------
    corpus, folder
        From where to where.
    num_volumes
        Volumes that were asked for.
    written, skipped
        Volumes written now; volumes that were finished before.
    failed
        Volume to (reason, message).
    num_slices, num_bytes
        Of what was written now; bytes before compression.
    seconds
        Wall time.
    interrupted
        True where the user stopped it.
    stopped
        Why it gave up before the end; None where it did not.
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
        """0 all done, 1 some volumes are missing, 130 interrupted."""
        if self.interrupted:
            return 130
        return 1 if self.failed or self.stopped else 0

    def take(self, num_slices: int, num_bytes: int) -> None:
        """Count a volume that was written."""
        self.written += 1
        self.num_slices += num_slices
        self.num_bytes += num_bytes

    def fail(self, name: str, reason: str, message: str) -> None:
        """Record a volume that was not."""
        self.failed[name] = (reason, message)

    def to_json(self) -> dict[str, Any]:
        """Give all of it as a JSON object."""
        failed = {name: {"reason": reason, "message": message} for name, (reason, message) in self.failed.items()}
        return {**asdict(self), "failed": failed, "exit_status": self.exit_status}

    def lines(self) -> list[str]:
        """Say it in words."""
        done = self.written + self.skipped
        lines = [f"{self.folder}: {done} of {self.num_volumes} volumes{self._say_new()}"]
        lines += [f"  {name}: {reason}: {message}" for name, (reason, message) in list(self.failed.items())[:_SHOWN]]
        if len(self.failed) > _SHOWN:
            lines.append(f"  and {len(self.failed) - _SHOWN} more that failed, all of them with --json")
        if self.stopped:
            lines.append(f"stopped with {self.num_volumes - done - len(self.failed)} volumes to go: {self.stopped}")
        return lines

    def _say_new(self) -> str:
        if not self.written:
            return ", all of them before" if self.skipped and not self.failed else ""
        return (
            f": {self.written} written and read back now ({self.num_slices} slices, {format_bytes(self.num_bytes)} "
            f"before compression, {format_seconds(self.seconds)}), {self.skipped} before"
        )


FORMATS = ("fastmri", "bart", "ismrmrd")


@dataclass(frozen=True)
class ExportOptions:
    """What is exported and how.

    Attributes
    ----------
    file_format
        One of `FORMATS`.
    splits, contrasts, volumes
        Keep the volumes of these; None keeps all.
    by_split
        A sub-folder for every split.
    compression
        `none`, or `gzip` for fastMRI's files.
    check
        Read finished volumes back too, and make again what differs.
    """

    file_format: str = "fastmri"
    splits: Collection[str] | None = None
    contrasts: Collection[str] | None = None
    volumes: Collection[str] | None = None
    by_split: bool = False
    compression: str = "none"
    check: bool = False


def export_corpus(
    root: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    options: ExportOptions | None = None,
    progress: Callable[[Iterable[Wanted]], Iterable[Wanted]] = iter,
) -> ExportSummary:
    """Write volumes of a corpus as files of another format. Run it again to carry on.

    Parameters
    ----------
    root
        Path or URL of the corpus.
    folder
        A folder on a local disk; made where it is missing.
    options
        Default: everything, in fastMRI's format.
    progress
        Wraps the list of volumes, as `tqdm` does.

    Returns
    -------
    summary
        What was written, skipped and failed; an interrupt and a full disk end the work and are told here too.

    Raises
    ------
    RequestError
        If there is no such corpus, no volume is left to export, or the folder is not to be written; nothing was
        started.
    """
    options = options or ExportOptions()
    kind = _format(options)
    where = _local(folder, root)
    filters = {"split": options.splits, "contrast": options.contrasts, "name": options.volumes}
    wanted = choose(read_index(root), where, kind.SUFFIX, options.by_split, filters)
    store = CorpusStore.open(root)
    summary = ExportSummary(store.root, str(where), len(wanted))
    start = time.monotonic()
    with Place.held(where) as place:
        try:
            for volume in progress(wanted):
                _take(volume, store, place, kind, options, summary)
                if summary.stopped:
                    break
        except KeyboardInterrupt:
            summary.interrupted = True
    summary.seconds = time.monotonic() - start
    return summary


def _format(options: ExportOptions) -> ModuleType:
    if options.file_format not in FORMATS:
        raise RequestError(f"--format {options.file_format}: unknown; expected {', '.join(FORMATS)}")
    from rephase.exports import bart, fastmri, ismrmrd

    kind: ModuleType = {"fastmri": fastmri, "bart": bart, "ismrmrd": ismrmrd}[options.file_format]
    if options.compression not in kind.COMPRESSIONS:
        raise RequestError(
            f"--compression {options.compression}: not in --format {options.file_format}; expected "
            f"{' or '.join(kind.COMPRESSIONS)}"
        )
    kind.check_package()
    return kind


def _local(folder: str | os.PathLike[str], root: str | os.PathLike[str]) -> Path:
    text = os.fspath(folder)
    if is_url(text):
        raise RequestError(f"{text}: is a URL; expected a folder on a local disk; export there and copy it")
    path = Path(os.path.abspath(text))  # noqa: PTH100 - without following links
    if path.exists() and not path.is_dir():
        raise RequestError(f"{path}: is a file; expected a folder; choose another path")
    if path.resolve().is_relative_to(Path(os.fspath(root)).resolve()):
        raise RequestError(f"{path}: lies inside the corpus; expected a folder of its own; choose another path")
    return path


def _take(
    wanted: Wanted, store: CorpusStore, place: Place, kind: ModuleType, options: ExportOptions, summary: ExportSummary
) -> None:
    """Export one volume, or skip it; whatever goes wrong with it alone is recorded."""
    try:
        if _is_finished(wanted, kind, options):
            summary.skipped += 1
            return
        volume = SourceVolume.open(store, wanted.name)
        _write(volume, wanted.target, place, kind, options)
        summary.take(volume.shape("kspace")[0], volume.num_bytes)
    except VolumeError as error:
        summary.fail(wanted.name, error.reason, str(error))
    except (OSError, RuntimeError) as error:  # h5py raises both
        if is_disk_full(error):
            summary.stopped = f"{place.folder}: the disk is full ({one_line(error)}); make room or choose another disk"
        else:
            summary.fail(wanted.name, "failed", f"{wanted.target}: {one_line(error)}; run the same command again")


def _stamp(receipt_sha256: str, options: ExportOptions) -> Stamp:
    return Stamp(receipt_sha256, f"{options.file_format}, {options.compression}")


def _is_finished(wanted: Wanted, kind: ModuleType, options: ExportOptions) -> bool:
    if not wanted.target.exists():
        return False
    if kind.is_foreign(wanted.target):
        raise VolumeError(
            "changed",
            f"{wanted.target}: was not written by this export; expected nothing there or an earlier export; remove it "
            "or choose another folder",
        )
    found: Stamp | None = kind.read_stamp(wanted.target)
    if found is None or not found.is_of(_stamp(wanted.receipt_sha256, options)):
        return False
    return not options.check or _holds(wanted.target, found, kind)


def _holds(path: Path, stamp: Stamp, kind: ModuleType) -> bool:
    try:
        return bool(kind.read_digests(path) == stamp.sha256)
    except (OSError, RuntimeError, ValueError, KeyError):  # what is damaged may fail in any way
        return False


def _write(volume: SourceVolume, target: Path, place: Place, kind: ModuleType, options: ExportOptions) -> None:
    with place.writing(target) as partial:
        written = kind.write(volume, partial, _stamp(volume.receipt_sha256, options), options.compression)
        if kind.read_stamp(partial) != written or not _holds(partial, written, kind):
            raise OSError(errno.EIO, "what was read back is not what was written", str(target))
