"""Opening what a manifest names: local files as they are, URLs by fsspec into a temporary file, and their digests."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from rephase.errors import VolumeError
from rephase.files import file_sha256, sha256
from rephase.text import is_url, one_line

_BLOCK_BYTES = 1 << 20


@contextmanager
def local_path(location: str) -> Iterator[Path]:
    """Give a local path of a file or folder for as long as the context lasts.

    Raises
    ------
    VolumeError
        `missing` where nothing is there, `unreadable` where a URL cannot be fetched.
    """
    if location.startswith("file://"):
        location = unquote(urlsplit(location).path)
    if not is_url(location):
        check_local(location)
        yield Path(location)
        return
    with tempfile.TemporaryDirectory(prefix="rephase-") as folder:
        yield _fetch(location, Path(folder))


def check_local(location: str) -> None:
    """Make sure that a local path is a file or a folder, before anything opens it: opening a pipe waits for ever.

    Raises
    ------
    VolumeError
        `missing` where nothing is there, `unreadable` where it may not be looked at, or is neither.
    """
    try:
        mode = Path(location).stat().st_mode
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL character
        code = error.errno if isinstance(error, OSError) else errno.ENOENT
        if code in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
            raise VolumeError(
                "missing", f"{location}: is not there; expected a file or folder; correct the manifest's path"
            ) from None
        raise VolumeError(
            "unreadable", f"{location}: cannot be looked at ({one_line(error)}); expected a readable file; check it"
        ) from error
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise VolumeError(
            "unreadable", f"{location}: is a pipe, a socket or a device; expected a file or folder; name one"
        )


def _fetch(location: str, folder: Path) -> Path:
    import fsspec

    # The name decides the format where a row says `auto`, so it is kept.
    path = folder / (os.path.basename(location.rstrip("/")) or "source")  # noqa: PTH119
    try:
        with fsspec.open(location, "rb") as remote, path.open("wb") as local:
            shutil.copyfileobj(remote, local, _BLOCK_BYTES)
    except FileNotFoundError:
        raise VolumeError(
            "missing", f"{location}: is not there; expected a file; correct the manifest's path"
        ) from None
    except (OSError, ValueError, ImportError) as error:
        raise VolumeError(
            "unreadable",
            f"{location}: cannot be fetched ({one_line(error)}); expected a file that fsspec opens; try it by hand",
        ) from error
    return path


def hash_file(path: Path) -> str:
    """Give the SHA-256 of a file's bytes, as hexadecimal digits."""
    try:
        return file_sha256(path)
    except OSError as error:
        raise VolumeError(
            "unreadable", f"{path}: {error.strerror or error}; expected a readable file; check it"
        ) from error


def hash_location(location: str) -> str:
    """Return the SHA-256 of the bytes of a file or URL."""
    with local_path(location) as path:
        return hash_file(path)


def join_digests(digests: Sequence[str]) -> str:
    """Join the digests of the files of one volume: of one file its own, of several the SHA-256 over them in order."""
    if len(digests) == 1:
        return digests[0]
    return sha256(b"".join(map(bytes.fromhex, digests)))
