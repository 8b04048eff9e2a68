"""Open, replace and hash files."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_LONGEST_NAME = 255


def open_file(path: str | os.PathLike[str]) -> int:
    """Open a regular file for reading and return its descriptor.

    Opening a pipe would wait for a writer, and a device may never end.

    Raises
    ------
    OSError
        If it is anything else.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    raise OSError(errno.EINVAL, "is a pipe, a socket or a device; expected a file", os.fspath(path))


@contextmanager
def replacing(path: Path, partial: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path to write to, which is flushed and then replaces `path` atomically.

    Readers of `path` see the old file or the new one, also after a power cut. If the block raises, the temporary file
    is removed and `path` stays as it is.

    Parameters
    ----------
    path
        The file to replace. Its directory must exist.
    partial
        The temporary path, on the same file system. Default: `<path>.partial`; choose another if two processes may
        write at once.
    """
    partial = path.with_name(_partial_name(path.name)) if partial is None else partial
    try:
        yield partial
        _flush(partial)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def private_folder(path: Path) -> None:
    """Create a folder that its owner alone may read, or make it so if it is ours; those above it are ordinary ones."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        found = path.stat()
        if found.st_uid == os.geteuid() and stat.S_ISDIR(found.st_mode) and found.st_mode & 0o077:
            path.chmod(0o700)


def user_folder() -> Path:
    """Return a folder for temporary files of this user, in which nobody else can put or read any."""
    path = Path(tempfile.gettempdir()) / f"rephase-{os.geteuid()}"
    with suppress(OSError):
        private_folder(path)
        found = path.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077:
            return path
    return Path(tempfile.mkdtemp(prefix="rephase-"))  # somebody else has taken the name


def _partial_name(name: str) -> str:
    """Return the name of the temporary file, at most 255 bytes, the limit of file systems."""
    partial = f"{name}.partial"
    return partial if len(os.fsencode(partial)) <= _LONGEST_NAME else f".{sha256(os.fsencode(name))[:32]}.partial"


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(data: bytes) -> str:
    """Return the SHA-256 of bytes as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
