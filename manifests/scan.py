"""Find the magnitude volumes in a folder: ids are salted hashes, all else is counted by its kind."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

from rephase.manifests.columns import writable
from rephase.manifests.header import Kind, Passed, Probe, SeriesHeader, is_annex_link, not_fetched
from rephase.manifests.select import Selection


@dataclass(frozen=True)
class ScannedVolume:
    """A future manifest row: the header, the ids, and the file of its phase or k-space (with `pairs`)."""

    header: SeriesHeader
    volume_id: str
    subject_id: str | None
    phase: Path | None = None
    kspace: Path | None = None


@dataclass(frozen=True)
class ScanResult:
    """The result of a scan.

    Attributes
    ----------
    volumes
        In the order of their paths and selectors.
    skipped
        Number of volumes and files of each other kind.
    passed
        The files among them, and what each is.
    unreadable
        Files and folders that a build would refuse, with the reason.
    notes
        What a user should know of a path, such as an assumed orientation.
    unpaired
        With `pairs`: number of magnitude volumes without phase, which are skipped too.
    not_selected
        Number of magnitude volumes that the selection leaves out.
    """

    volumes: list[ScannedVolume] = field(default_factory=list)
    skipped: dict[Kind, int] = field(default_factory=dict)
    passed: list[Passed] = field(default_factory=list)
    unreadable: list[tuple[Path, str]] = field(default_factory=list)
    notes: list[tuple[Path, str]] = field(default_factory=list)
    unpaired: int = 0
    not_selected: int = 0


__all__ = ["Lost", "ScanResult", "ScannedVolume", "scan_folder", "walk"]

ID_DIGITS = 16
_MOST_DIGITS = 64


def scan_folder(
    folder: str | os.PathLike[str],
    probe: Probe,
    *,
    salt: str | None = None,
    pairs: bool = False,
    selection: Selection | None = None,
    progress: Callable[[Path], None] | None = None,
) -> ScanResult:
    """Find the volumes below a folder.

    Parameters
    ----------
    folder
        Walked once, in the order of names; links to folders that were already walked are not followed again, and
        hidden folders, such as `.git`, are passed over.
    probe
        Describes the volumes in all files.
    salt
        The same salt yields the same ids. Store it safely and keep it secret. None: a random salt that is not saved, so
        that another scan yields different ids.
    pairs
        Select only magnitude volumes with measured phase, and record its file.
    selection
        Which of the volumes to write; None for all.
    progress
        Called with each file as it is probed.

    Returns
    -------
    result
        Ids are HMAC-SHA-256 of the key of a volume or a subject. Paths in keys are relative to `folder`, so an
        archive keeps its ids when it is moved.

    Raises
    ------
    NotADirectoryError
        If `folder` is not a directory.
    """
    root = Path(folder)
    if not root.is_dir():
        raise NotADirectoryError(f"{root}: not a directory; expected a folder of images; check the path")
    lost = Lost()
    probed = probe(_counted(walk(root, lost), progress))
    lost.unreadable.extend(probed.unreadable)
    lost.passed.extend(probed.passed)
    salt = secrets.token_hex(32) if salt is None else salt
    found = _arrange(root, probed.headers, salt, pairs, selection or Selection())
    skipped = Counter(found.skipped)
    skipped.update(passed.kind for passed in lost.passed)
    notes = [*probed.notes, *((volume.header.path, note) for volume in found.volumes for note in volume.header.notes)]
    return replace(
        found, skipped=dict(sorted(skipped.items())), passed=lost.passed, unreadable=lost.unreadable, notes=notes
    )


@dataclass
class Lost:
    """What a walk does not yield: paths that cannot be read, with the reason, and paths that are passed over."""

    unreadable: list[tuple[Path, str]] = field(default_factory=list)
    passed: list[Passed] = field(default_factory=list)


def _counted(files: Iterable[Path], progress: Callable[[Path], None] | None) -> Iterator[Path]:
    for file in files:
        if progress is not None:
            progress(file)
        yield file


def walk(root: Path, lost: Lost) -> Iterator[Path]:
    """Yield each file from `root` downwards, folder by folder in the order of names.

    Parameters
    ----------
    root
        The first folder.
    lost
        Receives what is not yielded.
    """
    seen: set[tuple[int, int]] = set()
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        try:
            status = folder.stat()
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            lost.unreadable.append((folder, f"the folder cannot be read ({error.strerror or error})"))
            continue
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        files, folders = _sorted_out(entries, lost)
        yield from files
        waiting.extend(reversed(folders))


def _sorted_out(entries: list[os.DirEntry[str]], lost: Lost) -> tuple[list[Path], list[Path]]:
    files, folders = [], []
    for entry in entries:
        path = Path(entry.path)
        why = None
        try:
            if not writable(entry.name):
                why = "its name cannot be written in a manifest; expected one line of UTF-8; rename it"
            elif entry.is_file():
                files.append(path)
            elif entry.is_dir():
                if entry.name.startswith("."):
                    lost.passed.append(Passed(path, "no image", f"{path}: is hidden; scan it by its own path"))
                else:
                    folders.append(path)
            elif entry.is_symlink():
                if is_annex_link(path):
                    lost.passed.append(not_fetched(path))
                else:
                    why = "is a dangling link; expected a file; restore its target or remove it"
            else:
                lost.passed.append(Passed(path, "no image", f"{path}: is a pipe, a socket or a device"))
        except OSError as error:  # a link to a path without permission, or a circular link
            why = f"cannot be read ({error.strerror or error})"
        if why is not None:
            lost.unreadable.append((path, why))
    return files, folders


def _arrange(root: Path, headers: list[SeriesHeader], salt: str, pairs: bool, selection: Selection) -> ScanResult:
    chosen = [header for header in headers if header.kind == "magnitude"]
    phases = _unique_by_pair(headers, "phase") if pairs else {}
    kspaces = _unique_by_pair(headers, "kspace") if pairs else {}
    if pairs:
        # raw data without a reconstruction: its own image is the magnitude
        partners = {header.pair_key for header in chosen}
        chosen += [header for key, header in kspaces.items() if key not in partners]
    num_found, chosen = len(chosen), selection.choose(root, chosen)
    skipped: Counter[Kind] = Counter(header.kind for header in headers if header.kind != "magnitude")
    volume_ids = _Pseudonyms(salt, "volume", root)
    subject_ids = _Pseudonyms(salt, "subject", root)
    volumes, unpaired = [], 0
    # a DICOM header identifies the acquisition, but two images of the same name may be unrelated
    named = Counter(header.pair_key for header in chosen if header.paired_by_name)
    for header in sorted(chosen, key=_selectors):
        phase = phases.get(header.pair_key) if named[header.pair_key] <= 1 else None
        kspace = kspaces.get(header.pair_key)
        if pairs and phase is None and kspace is None:
            unpaired += 1
            continue
        if selection.split:
            subject = header.subject_key or header.series_key.partition("#")[0]
            header = replace(header, split=selection.split_of(subject.removeprefix(f"{root}{os.sep}"), salt))
        parts = (header.series_key, header.dataset, header.echo, header.frame)
        volumes.append(
            ScannedVolume(
                header=header,
                volume_id=volume_ids.unique("\0".join("" if part is None else str(part) for part in parts)),
                subject_id=None if header.subject_key is None else subject_ids.of(header.subject_key),
                phase=None if phase is None else phase.path,
                kspace=None if phase is not None or kspace is None else kspace.path,
            )
        )
    return ScanResult(volumes, skipped, unpaired=unpaired, not_selected=num_found - len(chosen))


def _unique_by_pair(headers: list[SeriesHeader], kind: str) -> dict[str | None, SeriesHeader]:
    """Map keys to headers of a kind, without keys shared by several headers."""
    partners = [header for header in headers if header.kind == kind and header.pair_key is not None]
    counts = Counter(header.pair_key for header in partners)
    return {header.pair_key: header for header in partners if counts[header.pair_key] == 1}


def _selectors(header: SeriesHeader) -> tuple[str, str, str, int, int]:
    """Return the cells that select a volume, as a sort key; -1 and empty texts for absent ones."""
    echo, frame = (-1 if number is None else number for number in (header.echo, header.frame))
    return str(header.path), header.series or "", header.part or header.dataset or "", echo, frame


class _Pseudonyms:
    """Pseudonyms: the first digits of a keyed hash, which cannot be computed from an identity without the salt."""

    def __init__(self, salt: str, purpose: str, root: Path) -> None:
        self._key = f"{purpose}\0{salt}".encode()
        self._prefix = f"{root}{os.sep}"
        self._given: dict[str, str] = {}

    def of(self, identity: str) -> str:
        """Return the pseudonym of an identity, which is the same for every call."""
        return self._digits(identity)[:ID_DIGITS]

    def unique(self, identity: str) -> str:
        """Return a unique pseudonym: with more digits for a collision, and a number for a repeated identity."""
        digits = self._digits(identity)
        numbered = (f"{digits[:ID_DIGITS]}-{k}" for k in range(2, 1000))
        for name in chain((digits[:ID_DIGITS], digits[:_MOST_DIGITS]), numbered):
            if name not in self._given:
                self._given[name] = identity
                return name
        raise ValueError(f"{self._prefix}: holds a thousand copies of one volume; expected fewer; remove copies")

    def _digits(self, identity: str) -> str:
        relative = identity.removeprefix(self._prefix)
        return hmac.new(self._key, relative.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()
