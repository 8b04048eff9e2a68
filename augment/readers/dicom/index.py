"""Headers of all files of a folder, read once and kept for its other volumes; and their digests."""

from __future__ import annotations

import functools
import hashlib
import re
import stat
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, ParamSpec, TypeVar

from rephase.errors import VolumeError
from rephase.manifests.header import Kind
from rephase.readers.dicom.files import DicomFile, Stamp, check_unchanged, hash_file, list_files
from rephase.readers.dicom.header import Header, read_header
from rephase.readers.dicom.series import Part, grouped, split_series

BELOW = "**/"
"""Before a `series`: its files lie in folders below the path too."""
_KEPT_FILES = 200_000
_TRUSTED_S = 2.0
T = TypeVar("T")
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
    _suspects: dict[str, list[DicomFile]] = field(default_factory=dict)
    _parts: dict[tuple[str, Kind, str], tuple[list[Part], list[VolumeError]]] = field(default_factory=dict)

    def parts(self, headers: Sequence[Header], kind: Kind, where: str) -> tuple[list[Part], list[VolumeError]]:
        """Split a series, once for all of its volumes; return its parts, and the errors of those that are no volume."""
        key = (headers[0].series, kind, where)
        if key not in self._parts:
            lost: list[VolumeError] = []
            self._parts[key] = split_series(headers, kind, where, lost.append), lost
        return self._parts[key]

    @functools.cached_property
    def images(self) -> dict[str, list[Header]]:
        """MR images by SeriesInstanceUID."""
        return grouped((one for one in self.headers if one.is_image or one.kind == "non_mr"), lambda one: one.series)

    def suspects(self, series: str) -> list[DicomFile]:
        """List damaged files that are named like the images of this series and no other.

        A stack that ends early looks like a complete one.
        """
        if series in self._suspects:
            return self._suspects[series]
        owners: dict[str, set[str]] = {}
        for header in self.headers:
            if header.is_image:
                owners.setdefault(_name_pattern(header.file), set()).add(header.series)
        strangers = [*self.others, *(header.file for header in self.headers if header.kind == "no image")]
        strangers = [*self.lost, *(file for file in strangers if not file.has_dicom_name)]
        self._suspects[series] = [file for file in strangers if owners.get(_name_pattern(file)) == {series}]
        return self._suspects[series]


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


class _Recent(Generic[T]):
    """The values used last, of at most `most` files together."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[object, tuple[int, T]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: object) -> T | None:
        with self._lock:
            if key not in self._kept:
                return None
            self._kept.move_to_end(key)
            return self._kept[key][1]

    def put(self, key: object, num_files: int, value: T) -> None:
        with self._lock:
            self._kept[key] = (num_files, value)
            while len(self._kept) > 1 and sum(number for number, _ in self._kept.values()) > self._most:
                self._kept.popitem(last=False)


_listed: _Recent[tuple[Stamp | None, float, Index, list[tuple[str, Stamp]]]] = _Recent(_KEPT_FILES)
_digests: _Recent[str] = _Recent(_KEPT_FILES)


def index_path(path: str, deep: bool) -> tuple[Index, bool]:
    """Read the headers of the files of a path; return them and whether it is a folder.

    A folder without new or removed files is not listed again for `_TRUSTED_S`: workers read one volume after another
    of a series of thousands of files. What is then read of files that have changed is refused by `check_unchanged`.
    """
    folder = _folder_stamp(path)
    known = _listed.get((path, deep))
    if known is not None and folder is not None and known[0] == folder and time.monotonic() < known[1] + _TRUSTED_S:
        return known[2], True
    filesystem, files, is_folder = list_files(path, deep)
    index = known[2] if known is not None and known[3] == files else None
    if index is None:
        index = index_files(DicomFile(filesystem, name, stamp) for name, stamp in files)
    _listed.put((path, deep), len(files), (folder if not deep else None, time.monotonic(), index, files))
    return index, is_folder


def _folder_stamp(path: str) -> Stamp | None:
    try:
        status = Path(path).stat()
    except (OSError, ValueError):
        return None
    return (status.st_mtime_ns, status.st_ino) if stat.S_ISDIR(status.st_mode) else None


def index_files(files: Iterable[DicomFile]) -> Index:
    """Read the headers of files."""
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
    _drop_copies(index)
    return index


def _drop_copies(index: Index) -> None:
    """Drop images that another file holds byte for byte; those of the folder with the most files are kept."""
    in_folder = {folder: len(members) for folder, members in grouped(index.headers, _place).items()}
    dropped: set[Header] = set()
    for same in grouped(
        index.headers, lambda header: (*_place(header)[1:], header.instance, header.told_apart_by)
    ).values():
        if len(same) > 1:
            originals: dict[bytes, DicomFile] = {}
            for header in sorted(
                same, key=lambda header: (-in_folder[_place(header)], len(header.file.path), header.file.path)
            ):
                original = originals.setdefault(hash_file(header.file), header.file)
                if original is not header.file:
                    index.copies.append((header.file, original))
                    dropped.add(header)
    index.headers[:] = [header for header in index.headers if header not in dropped]


def _place(header: Header) -> tuple[str, str]:
    return header.file.folder, header.series


def digest_files(files: Sequence[DicomFile]) -> str:
    """Return one SHA-256 for the files of a series: that of a single file, else the one over all digests in order."""
    key = tuple((file.path, file.stamp) for file in files)
    found = _digests.get(key)
    if found is None:
        digests = [hash_file(file) for file in files]
        check_unchanged(files)
        found = digests[0].hex() if len(files) == 1 else hashlib.sha256(b"".join(digests)).hexdigest()
        _digests.put(key, len(files), found)
    return found


def series_id(uid: str) -> str:
    """Return the name of a series in a manifest: the first digits of the SHA-256 of its UID, which is identifying."""
    return hashlib.sha256(uid.encode("utf-8", "surrogateescape")).hexdigest()[:16]
