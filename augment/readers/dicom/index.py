"""Headers of all files of a path, read once and kept for its other volumes."""

from __future__ import annotations

import functools
import hashlib
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ParamSpec, TypeVar

from rephase.errors import VolumeError
from rephase.manifests.header import Kind
from rephase.readers.dicom.files import DicomFile, list_files
from rephase.readers.dicom.header import Header, read_header
from rephase.readers.dicom.series import Part, grouped, split_series
from rephase.readers.sources import hash_file

BELOW = "**/"
"""Before a `series`: its files lie in folders below the path too."""
R = TypeVar("R")
P = ParamSpec("P")


@dataclass
class Index:
    """The files of a path.

    Attributes
    ----------
    headers
        Of the DICOM objects, in the order of the files.
    lost
        Errors of the files that cannot be read.
    others
        Files that are no DICOM.
    copies
        Files that are left out, with the file that each equals byte for byte.
    """

    headers: list[Header] = field(default_factory=list)
    lost: dict[DicomFile, VolumeError] = field(default_factory=dict)
    others: list[DicomFile] = field(default_factory=list)
    copies: list[tuple[DicomFile, DicomFile]] = field(default_factory=list)
    _parts: dict[tuple[str, Kind, str], tuple[list[Part], list[VolumeError]]] = field(default_factory=dict)

    def parts(self, headers: Sequence[Header], kind: Kind, where: str) -> tuple[list[Part], list[VolumeError]]:
        """Split a series, once for all of its volumes; return its parts, and the errors of those that are no volume."""
        key = (headers[0].series, kind, where)
        if key not in self._parts:
            self._parts[key] = split_series(headers, kind, where)
        return self._parts[key]

    @functools.cached_property
    def series(self) -> dict[str, list[Header]]:
        """MR images, and images of other modalities, by SeriesInstanceUID."""
        return grouped((one for one in self.headers if one.matrix or one.kind == "non_mr"), lambda one: one.series)

    @functools.cached_property
    def suspects(self) -> dict[str, list[DicomFile]]:
        """Damaged files by the one series whose images are named like them: a stack that ends early looks complete."""
        owners: dict[str, set[str]] = {}
        for header in self.headers:
            if header.matrix:
                owners.setdefault(_name_pattern(header.file), set()).add(header.series)
        strangers = [*self.others, *(header.file for header in self.headers if header.kind == "no image")]
        strangers = [*self.lost, *(file for file in strangers if not file.has_dicom_name)]
        owned = [(file, owners.get(_name_pattern(file), set())) for file in strangers]
        return grouped(
            (file for file, of in owned if len(of) == 1), {file: min(of) for file, of in owned if of}.__getitem__
        )

    def check(self, headers: Sequence[Header], where: str) -> None:
        """Check that no file of a series was damaged so that it no longer counts as its image.

        Raises
        ------
        VolumeError
            `unreadable`.
        """
        kinds = {header.kind for header in headers}
        strange = [header.file for header in headers if header.kind == "non_mr"] if len(kinds) > 1 else []
        for file in [*strange, *self.suspects.get(headers[0].series, ())]:
            raise self.lost.get(file) or VolumeError(
                "unreadable",
                f"{file}: is no MR image, but belongs to a series of them or is named like them; expected a slice of "
                f"{where}; copy it again",
            )


def _name_pattern(file: DicomFile) -> str:
    """Return a file's path without the numbers, decimal or hexadecimal, of its name."""
    return f"{file.folder}/{re.sub('[0-9a-f]+', '#', file.path.rpartition('/')[2].lower())}"


_LOCK = threading.RLock()


def one_at_a_time(function: Callable[P, R]) -> Callable[P, R]:
    """Let one thread at a time call functions that fill an index: threads that read one folder share it."""

    @functools.wraps(function)
    def locked(*arguments: P.args, **named: P.kwargs) -> R:
        with _LOCK:
            return function(*arguments, **named)

    return locked


def index_path(path: str, deep: bool = False) -> tuple[Index, bool]:
    """Read the headers of the files of a path; return them and whether it is a folder."""
    files, is_folder = list_files(path, deep)
    return _index(tuple(files)), is_folder


@functools.lru_cache(maxsize=4)
def _index(files: tuple[DicomFile, ...]) -> Index:
    return index_files(files)


def index_files(files: Iterable[DicomFile]) -> Index:
    """Read the headers of files, and leave out images that another file holds byte for byte."""
    index = Index()
    for file in files:
        try:
            header = read_header(file)
        except VolumeError as error:
            index.lost[file] = error
            continue
        if header is None:
            index.others.append(file)
        else:
            index.headers.append(header)
    in_folder = {key: len(members) for key, members in grouped(index.headers, _place).items()}
    alike = grouped(index.headers, lambda header: (header.series, header.instance))
    dropped: set[Header] = set()
    for same in (same for same in alike.values() if len(same) > 1):
        originals: dict[str, Header] = {}
        # those of the folder with the most files are kept
        for header in sorted(same, key=lambda one: (-in_folder[_place(one)], len(one.file.path), one.file.path)):
            original = originals.setdefault(hash_file(Path(header.file.path)), header)
            if original is not header:
                index.copies.append((header.file, original.file))
                dropped.add(header)
    index.headers[:] = [header for header in index.headers if header not in dropped]
    return index


def _place(header: Header) -> tuple[str, str]:
    return header.file.folder, header.series


def series_id(uid: str) -> str:
    """Return the name of a series in a manifest: the first digits of the SHA-256 of its UID, which is identifying."""
    return hashlib.sha256(uid.encode("utf-8", "surrogateescape")).hexdigest()[:16]
