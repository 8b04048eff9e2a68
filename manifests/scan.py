"""From folders of images to a manifest: a row per magnitude volume, named by salted hashes, everything else counted."""

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
    """One row to be: what the probe told, its names, and where its phase lies (with `pairs`)."""

    header: SeriesHeader
    volume_id: str
    subject_id: str | None
    phase: Path | None = None
    kspace: Path | None = None


@dataclass(frozen=True)
class ScanResult:
    """What a scan found.

    Attributes
    ----------
    volumes
        In the order of their paths and selectors.
    left_out
        How many volumes of each other kind were found and left out.
    unreadable
        Files that could not be understood and folders that could not be looked into, with the reason.
    unpaired
        With `pairs`: magnitude volumes without phase, which are left out too.
    """

    volumes: list[ScannedVolume] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
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
        Equal salts give equal ids, so keep it secret and keep it. None: a random one that is kept nowhere, and a
        second scan gives other ids.
    pairs
        Take only magnitude volumes that have real phase, and name it.
    progress
        Called with each folder before it is probed.

    Returns
    -------
    result
        Ids are HMAC-SHA-256 of what identifies a volume or a subject; paths count relative to `folder`, so that a
        moved archive keeps its ids.

    Raises
    ------
    NotADirectoryError
        Where `folder` is none.
    """
    root = Path(folder)
    if not root.is_dir():
        raise NotADirectoryError(f"{root}: is no folder; expected one to scan; check the path")
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
    """Yield each folder below and with `root` that has files, with its files, in the order of names.

    Parameters
    ----------
    root
        Where to begin.
    lose
        Called with what cannot be looked at, and why: volumes in it would else be missed without a word.
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
                why = "its name cannot stand in a manifest; expected one line of UTF-8; rename it"
            elif entry.is_file():
                files.append(Path(entry.path))
            elif entry.is_dir():
                folders.append(Path(entry.path))
            elif entry.is_symlink():
                why = "is a link to nothing; expected a file; fetch what it names or remove it"
        except OSError as error:  # a link into what this user may not see, or that leads round in a circle
            why = f"cannot be looked at ({error.strerror or error})"
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
        # Raw data without a reconstruction is a complex image too; the magnitude is then its own.
        partners = {header.pair_key for header in chosen}
        chosen += [header for key, header in kspaces.items() if key not in partners]
    left_out = Counter(header.kind for header in headers if header.kind != "magnitude")
    volume_ids = _Names(salt, "volume", root)
    subject_ids = _Names(salt, "subject", root)
    volumes, unpaired = [], 0
    # a header tells which acquisition an image is of, but two images of one name may be anything
    named = Counter(header.pair_key for header in chosen if header.format == "nifti")
    for header in sorted(chosen, key=_order):
        phase = phases.get(header.pair_key) if named[header.pair_key] <= 1 else None
        kspace = kspaces.get(header.pair_key)
        if pairs and phase is None and kspace is None:
            unpaired += 1
            continue
        volumes.append(
            ScannedVolume(
                header=header,
                volume_id=volume_ids.unique(_volume_key(header)),
                subject_id=None if header.subject_key is None else subject_ids.of(header.subject_key),
                phase=None if phase is None else phase.path,
                kspace=None if phase is not None or kspace is None else kspace.path,
            )
        )
    return ScanResult(volumes, dict(sorted(left_out.items())), unreadable, unpaired)


def _unique_by_pair(headers: list[SeriesHeader], kind: str) -> dict[str | None, SeriesHeader]:
    """Partners by their key; a key that two have tells no pair."""
    partners = [header for header in headers if header.kind == kind and header.pair_key is not None]
    counts = Counter(header.pair_key for header in partners)
    return {header.pair_key: header for header in partners if counts[header.pair_key] == 1}


def _order(header: SeriesHeader) -> tuple[str, str, str, int, int]:
    dataset, series = header.dataset or "", header.series or ""
    return str(header.path), series, dataset, _or_less(header.echo), _or_less(header.frame)


def _or_less(number: int | None) -> int:
    return -1 if number is None else number


def _volume_key(header: SeriesHeader) -> str:
    parts = (header.series_key, header.dataset, header.echo, header.frame)
    return "\0".join("" if part is None else str(part) for part in parts)


class _Names:
    """Pseudonyms: the first digits of a keyed hash, which nobody without the salt can compute from an identity."""

    def __init__(self, salt: str, purpose: str, root: Path) -> None:
        self._key = f"{purpose}\0{salt}".encode()
        self._prefix = f"{root}{os.sep}"
        self._given: dict[str, str] = {}

    def of(self, identity: str) -> str:
        """Give the name of an identity: equal for equal ones."""
        return self._digits(identity)[:ID_DIGITS]

    def unique(self, identity: str) -> str:
        """Give a name that no other volume has: more digits, then a count, where the same one comes again."""
        digits = self._digits(identity)
        for name in (digits[:ID_DIGITS], digits[:_MOST_DIGITS], *(f"{digits[:ID_DIGITS]}-{k}" for k in range(2, 1000))):
            if name not in self._given:
                self._given[name] = identity
                return name
        raise ValueError(f"a thousand volumes of one identity under {self._prefix}; expected copies to be rarer")

    def _digits(self, identity: str) -> str:
        relative = identity.removeprefix(self._prefix)
        return hmac.new(self._key, relative.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()
