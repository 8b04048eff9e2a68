"""Open the files that a manifest names, fetching URLs into temporary files, and hash them."""

from __future__ import annotations

import errno
import fcntl
import gzip
import hashlib
import io
import os
import shutil
import stat
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeAlias, cast
from urllib.parse import unquote, urlsplit

from rephase.errors import VolumeError
from rephase.files import sha256
from rephase.formats import match_suffix
from rephase.manifests.header import is_annex_link, not_fetched
from rephase.readers.foreign import START_BYTES, is_pointer
from rephase.text import is_url, one_line

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_BLOCK_BYTES = 1 << 20


_watched = threading.local()
_TICK_S = 0.02
"""File times may be this coarse: of two changes within it, the second may not show."""

Mark: TypeAlias = tuple[int, ...] | None


@contextmanager
def at_rest() -> Iterator[None]:
    """Check at the end of a `with` block that no local file that was read in it has been replaced or changed since.

    What a volume records as the SHA-256 of its source must be that of the bytes that were read.

    Raises
    ------
    VolumeError
        `changed`, caused by an error that a retry may mend.
    """
    outer = getattr(_watched, "marks", None)
    marks: dict[str, Mark] = {}
    _watched.marks = marks
    try:
        yield
    except VolumeError:  # perhaps because of the change
        _check_marks(marks)
        raise
    finally:
        _watched.marks = outer
    _check_marks(marks)


def _check_marks(marks: Mapping[str, Mark]) -> None:
    for path, before in marks.items():
        if _mark(path) != before:
            raise VolumeError(
                "changed",
                f"{path}: was replaced or changed while it was read; expected a file at rest; run the same command "
                "again when nothing writes to it",
            ) from OSError(errno.ESTALE, os.strerror(errno.ESTALE), path)


def watch(path: str | os.PathLike[str]) -> None:
    """Add a local file that is about to be opened to those that `at_rest` checks."""
    marks: dict[str, Mark] | None = getattr(_watched, "marks", None)
    name = os.fspath(path)
    if marks is None or name in marks:
        return
    mark = _mark(name)
    if mark is not None and 0 <= time.time() - mark[-1] / 1e9 < _TICK_S:
        time.sleep(_TICK_S)
        mark = _mark(name)
    marks[name] = mark


def _mark(path: str) -> Mark:
    try:
        found = os.stat(path)  # noqa: PTH116 - a plain string
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


class Scratch(tempfile.TemporaryDirectory[str]):
    """A temporary folder; the first one of a process clears those that killed processes of this user have left.

    It is locked as long as its process lives, and a folder that can be locked is nobody's.
    """

    _is_cleared = False

    def __init__(self) -> None:
        if not Scratch._is_cleared:
            Scratch._is_cleared = True
            _clear_scratch()
        super().__init__(prefix=_SCRATCH)
        self._held = os.open(self.name, os.O_RDONLY)
        fcntl.flock(self._held, fcntl.LOCK_EX)

    def cleanup(self) -> None:
        """Remove the folder."""
        super().cleanup()
        os.close(self._held)


_SCRATCH = "rephase-scratch-"
_NOT_YET_LOCKED_S = 60


def _clear_scratch() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{_SCRATCH}*"):
        with suppress(OSError):  # another user's, or removed by another process
            held = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                status = os.fstat(held)
                if status.st_uid == os.getuid() and time.time() - status.st_mtime > _NOT_YET_LOCKED_S:
                    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(held)


@contextmanager
def local_path(location: str) -> Iterator[Path]:
    """Yield a local path of a file, a folder or a URL, which is fetched with fsspec for the duration of the context.

    Raises
    ------
    VolumeError
        `missing`, or `unreadable` if a URL cannot be fetched.
    """
    if location.startswith("file://"):
        location = unquote(urlsplit(location).path)
    if not is_url(location):
        check_local(location)
        if not Path(location).is_dir():
            watch(location)
        yield Path(location)
        return
    path = _fetched_folder(location)
    with Scratch() as folder:
        path = path or _fetch(location, Path(folder))
        try:
            yield path
        except VolumeError as error:
            if str(path) not in str(error):
                raise
            raise VolumeError(error.reason, str(error).replace(str(path), location)) from error


def check_local(location: str) -> None:
    """Check that a local path is a file or a folder, before it is opened: opening a pipe would block.

    Raises
    ------
    VolumeError
        `missing`, also for contents that were not fetched; `unreadable` if access is denied, or it is neither or empty.
    """
    path = Path(location)
    try:
        status = path.stat()
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL character
        if _is_unfetched_link(path):
            raise VolumeError("missing", not_fetched(path).why) from None
        code = error.errno if isinstance(error, OSError) else errno.ENOENT
        if code in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
            raise VolumeError(
                "missing", f"{location}: does not exist; expected a file or folder; correct the path in the manifest"
            ) from None
        raise VolumeError(
            "unreadable", f"{location}: cannot be accessed ({one_line(error)}); expected a readable file; check it"
        ) from error
    if stat.S_ISDIR(status.st_mode):
        return
    if not stat.S_ISREG(status.st_mode):
        raise VolumeError(
            "unreadable", f"{location}: is a pipe, a socket or a device; expected a file or folder; correct the path"
        )
    if status.st_size == 0:
        raise VolumeError("unreadable", f"{location}: is empty (0 bytes); expected an image; fetch it again")
    if status.st_size < START_BYTES and _is_pointer_file(path):
        raise VolumeError("missing", not_fetched(path).why)


def _is_unfetched_link(path: Path) -> bool:
    try:
        return path.is_symlink() and is_annex_link(path)
    except (OSError, ValueError):
        return False


def _is_pointer_file(path: Path) -> bool:
    try:
        return is_pointer(path.read_bytes())
    except OSError:  # the reader reports it
        return False


_MOST_FOLDERS = 2
_folders: OrderedDict[str, Scratch] = OrderedDict()


def _fetched_folder(location: str) -> Path | None:
    """Fetch the folder that a URL names, once for all of its volumes; None if it names a file."""
    import fsspec

    try:
        filesystem, inner = fsspec.core.url_to_fs(location)
        if location not in _folders:
            if match_suffix(location) is not None or not filesystem.isdir(inner):
                return None
            folder = Scratch()
            filesystem.get(inner.rstrip("/") + "/", f"{folder.name}/", recursive=True)
            _folders[location] = folder
            while len(_folders) > _MOST_FOLDERS:
                _folders.popitem(last=False)[1].cleanup()
    except (OSError, ValueError, ImportError):  # told when it is fetched as a file
        return None
    _folders.move_to_end(location)
    return Path(_folders[location].name)


def _fetch(location: str, folder: Path) -> Path:
    import fsspec

    # the suffix determines the format if a row has `auto`
    path = folder / (os.path.basename(location.rstrip("/")) or "source")  # noqa: PTH119
    try:
        with fsspec.open(location, "rb") as remote, path.open("wb") as local:
            shutil.copyfileobj(remote, local, _BLOCK_BYTES)
    except FileNotFoundError:
        raise VolumeError(
            "missing", f"{location}: does not exist; expected a file; correct the path in the manifest"
        ) from None
    except (OSError, ValueError, ImportError) as error:
        raise VolumeError(
            "unreadable",
            f"{location}: cannot be fetched ({one_line(error)}); expected a file that fsspec can open; "
            "check URL and credentials",
        ) from error
    return path


class _Bounded(io.RawIOBase):
    """A stream of at most `limit` bytes: a few kilobytes of gzip may unpack to gigabytes."""

    def __init__(self, raw: BinaryIO, name: str, limit: int) -> None:
        self.name, self._limit = name, limit
        self.packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        self._stream = cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if self.packed else raw

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        # in pieces, so that a header that states gigabytes does not allocate them at once
        view = memoryview(buffer).cast("B")[:_BLOCK_BYTES]
        chunk = self._stream.read(len(view))
        if self._stream.tell() > self._limit:
            found = f"{self.name}: unpacks to more than {self._limit} bytes, the limit"
            raise VolumeError("too_large", f"{found}; give workers more memory")
        view[: len(chunk)] = chunk
        return len(chunk)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()


@contextmanager
def open_bounded(path: Path, limit: int) -> Iterator[io.BufferedReader]:
    """Open a file, decompressed if it is gzip; reading beyond `limit` bytes raises `too_large`."""
    with path.open("rb") as raw, io.BufferedReader(_Bounded(raw, str(path), limit), buffer_size=1 << 16) as reader:
        yield cast(io.BufferedReader, reader)


def is_packed(stream: io.BufferedReader) -> bool:
    """Whether a file that `open_bounded` opened is gzip."""
    return bool(getattr(stream.raw, "packed", False))


FileKey = tuple[int, int, int, int, int]
_SETTLED_NS = 2_000_000_000
_MOST_DIGESTS = 4096
_digests: dict[FileKey, str] = {}


def file_key(file: io.BufferedReader) -> FileKey:
    """Return what identifies the contents of an open file: device, inode, size, and the times of its last changes."""
    status = os.fstat(file.fileno())
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def hash_open(file: io.BufferedReader) -> str:
    """Return the SHA-256 of an open file as hexadecimal digits; its position is not kept.

    Many rows may name one file, whose digest is computed once per process. It is kept only for files that were last
    changed some time ago: within one tick of the clock, a second change leaves no trace.
    """
    key = file_key(file)
    found = _digests.get(key)
    if found is None:
        file.seek(0)
        found = hashlib.file_digest(file, "sha256").hexdigest()
        if file_key(file) == key and time.time_ns() - max(key[3:]) > _SETTLED_NS:
            if len(_digests) >= _MOST_DIGESTS:
                _digests.clear()
            _digests[key] = found
    return found


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, as hexadecimal digits; see `hash_open`."""
    try:
        with path.open("rb") as file:
            return hash_open(file)
    except OSError as error:
        raise VolumeError(
            "unreadable", f"{path}: {error.strerror or error}; expected a readable file; check it"
        ) from error


def hash_location(location: str) -> str:
    """Return the SHA-256 of the bytes of a file or URL."""
    with local_path(location) as path:
        return hash_file(path)


def join_digests(digests: Sequence[str]) -> str:
    """Return one digest for the files of a volume: that of a single file, else the SHA-256 over all in order."""
    if len(digests) == 1:
        return digests[0]
    return sha256(b"".join(map(bytes.fromhex, digests)))
