"""Find the magnitude volumes in a folder: ids are salted hashes, other volumes are only counted."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rephase.manifests.columns import writable
from rephase.manifests.header import Probe, SeriesHeader


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
        Number of volumes of each other kind.
    unreadable
        Files and folders that cannot be read, with the reason.
    unpaired
        With `pairs`: number of magnitude volumes without phase, which are skipped too.
    """

    volumes: list[ScannedVolume] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)
    unreadable: list[tuple[Path, str]] = field(default_factory=list)
    unpaired: int = 0


__all__ = ["ScanResult", "ScannedVolume", "scan_folder", "walk"]

ID_DIGITS = 16
_MOST_DIGITS = 64


def scan_folder(
    folder: str | os.PathLike[str],
    probe: Probe,
    *,
    salt: str | None = None,
    pairs: bool = False,
    progress: Callable[[Path], None] | None = None,
) -> ScanResult:
    """Find the volumes below a folder.

    Parameters
    ----------
    folder
        Walked in the order of names; links to folders that were already walked are not followed again.
    probe
        Describes the volumes in the files of one folder.
    salt
        The same salt yields the same ids. Store it safely and keep it secret. None: a random salt that is not saved, so
        that another scan yields different ids.
    pairs
        Select only magnitude volumes with measured phase, and record its file.
    progress
        Called with each folder before it is probed.

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
    headers: list[SeriesHeader] = []
    unreadable: list[tuple[Path, str]] = []
    for path, files in walk(root, lambda lost, why: unreadable.append((lost, why))):
        if progress is not None:
            progress(path)
        probed = probe(path, files)
        headers.extend(probed.headers)
        unreadable.extend(probed.unreadable)
    return _arrange(root, headers, unreadable, secrets.token_hex(32) if salt is None else salt, pairs)


def walk(root: Path, lose: Callable[[Path, str], None] | None = None) -> Iterator[tuple[Path, list[Path]]]:
    """Yield each folder from `root` downwards that has files, with its files, in the order of names.

    Parameters
    ----------
    root
        The first folder.
    lose
        Called with each path that cannot be read, and the reason.
    """
    seen: set[tuple[int, int]] = set()
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        try:
            status = folder.stat()
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            if lose is not None:
                lose(folder, f"the folder cannot be read ({error.strerror or error})")
            continue
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        files, folders = _sorted_out(entries, lose)
        if files:
            yield folder, files
        waiting.extend(reversed(folders))


def _sorted_out(
    entries: list[os.DirEntry[str]], lose: Callable[[Path, str], None] | None
) -> tuple[list[Path], list[Path]]:
    files, folders = [], []
    for entry in entries:
        why = None
        try:
            if not writable(entry.name):
                why = "its name cannot be written in a manifest; expected one line of UTF-8; rename it"
            elif entry.is_file():
                files.append(Path(entry.path))
            elif entry.is_dir():
                folders.append(Path(entry.path))
            elif entry.is_symlink():
                why = "is a dangling link; expected a file; restore its target or remove it"
        except OSError as error:  # a link to a path without permission, or a circular link
            why = f"cannot be read ({error.strerror or error})"
        if why is not None and lose is not None:
            lose(Path(entry.path), why)
    return files, folders


def _arrange(
    root: Path, headers: list[SeriesHeader], unreadable: list[tuple[Path, str]], salt: str, pairs: bool
) -> ScanResult:
    chosen = [header for header in headers if header.kind == "magnitude"]
    phases = _unique_by_pair(headers, "phase") if pairs else {}
    kspaces = _unique_by_pair(headers, "kspace") if pairs else {}
    if pairs:
        # raw data without a reconstruction: its own image is the magnitude
        partners = {header.pair_key for header in chosen}
        chosen += [header for key, header in kspaces.items() if key not in partners]
    skipped = Counter(header.kind for header in headers if header.kind != "magnitude")
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
    return ScanResult(volumes, dict(sorted(skipped.items())), unreadable, unpaired)


def _unique_by_pair(headers: list[SeriesHeader], kind: str) -> dict[str | None, SeriesHeader]:
    """Map keys to headers of a kind, without keys shared by several headers."""
    partners = [header for header in headers if header.kind == kind and header.pair_key is not None]
    counts = Counter(header.pair_key for header in partners)
    return {header.pair_key: header for header in partners if counts[header.pair_key] == 1}


def _selectors(header: SeriesHeader) -> tuple[str, str, str, int, int]:
    """Return the cells that select a volume, as a sort key; -1 and empty texts for absent ones."""
    echo, frame = (-1 if number is None else number for number in (header.echo, header.frame))
    return str(header.path), header.series or "", header.dataset or "", echo, frame


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
        for name in (digits[:ID_DIGITS], digits[:_MOST_DIGITS], *(f"{digits[:ID_DIGITS]}-{k}" for k in range(2, 1000))):
            if name not in self._given:
                self._given[name] = identity
                return name
        raise ValueError(f"{self._prefix}: holds a thousand copies of one volume; expected fewer; remove copies")

    def _digits(self, identity: str) -> str:
        relative = identity.removeprefix(self._prefix)
        return hmac.new(self._key, relative.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()
