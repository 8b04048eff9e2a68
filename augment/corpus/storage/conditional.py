"""A small document that several builders change by agreement: each change names the version that it replaces.

On a disk the agreement is a lock on a file beside it, on S3 the conditions of its writes (If-None-Match, If-Match).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rephase.corpus.storage.base import run_folder
from rephase.corpus.storage.open import open_storage
from rephase.errors import RequestError
from rephase.files import replacing, sha256

if TYPE_CHECKING:
    from rephase.corpus.storage.s3 import S3Storage


class Exclusive(Protocol):
    """A document of which every version has a tag."""

    def read(self) -> tuple[bytes, str] | None:
        """Give the document and its tag, None where there is none."""
        ...

    def replace(self, document: bytes, tag: str | None) -> str | None:
        """Write a document if the one there has this tag (None: if there is none); gives the new tag, else None."""
        ...

    def remove(self, tag: str) -> None:
        """Remove the document if it has this tag."""
        ...


def open_exclusive(root: str, name: str) -> Exclusive:
    """Open a document beside a corpus; nothing is created.

    An object store without conditional writes (an fsspec URL other than `s3://`) gives none that other machines see:
    the document then lies in this user's runtime folder.
    """
    if root.startswith("s3://"):
        open_storage(root)  # says what is wrong with the URL
        return S3Exclusive(open_storage(run_folder(root)), name)  # type: ignore[arg-type]
    if "://" not in root:
        return LocalExclusive(Path(run_folder(str(Path(root).absolute()))) / name)
    runtime = os.environ.get("XDG_RUNTIME_DIR") or str(Path.home() / ".cache")
    readable = "".join(letter if letter.isalnum() else "_" for letter in root)
    return LocalExclusive(Path(runtime) / "rephase" / readable / name)


class LocalExclusive:
    """A file. It is only ever replaced whole, under the lock."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> tuple[bytes, str] | None:
        """Give the document and its tag, None where there is none."""
        try:
            document = self._path.read_bytes()
        except FileNotFoundError:
            return None
        return document, sha256(document)

    def replace(self, document: bytes, tag: str | None) -> str | None:
        """Write a document if the one there has this tag (None: if there is none); gives the new tag, else None."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._locked():
            if self._tag() != tag:
                return None
            with replacing(self._path, self._path.with_suffix(f".{uuid.uuid4().hex}")) as fresh:
                fresh.write_bytes(document)
        return sha256(document)

    def remove(self, tag: str) -> None:
        """Remove the document if it has this tag."""
        with self._locked():
            if self._tag() == tag:
                self._path.unlink(missing_ok=True)

    def _tag(self) -> str | None:
        found = self.read()
        return None if found is None else found[1]

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with self._path.with_suffix(".lock").open("w") as file:
            with contextlib.suppress(OSError):  # a file system without locks: the window is some milliseconds wide
                fcntl.flock(file, fcntl.LOCK_EX)
            yield


class S3Exclusive:
    """An object that is written on conditions."""

    def __init__(self, storage: S3Storage, name: str) -> None:
        self._storage = storage
        self._name = name

    def read(self) -> tuple[bytes, str] | None:
        """Give the document and its tag, None where there is none."""
        return self._storage.get_tagged(self._name)

    def replace(self, document: bytes, tag: str | None) -> str | None:
        """Write a document if the one there has this tag (None: if there is none); gives the new tag, else None.

        Raises
        ------
        RequestError
            If the service does not keep conditions.
        """
        try:
            fresh = self._storage.put_if(self._name, document, tag)
            ignored = fresh is not None and tag is None and self._ignores(document)
        except OSError as error:
            if error.errno != errno.ENOSYS:
                raise
            ignored = True
        if ignored:
            raise RequestError(
                f"{self._storage.root}: the object store does not keep conditional writes (If-None-Match), so two "
                "builders could not be kept apart; expected a service that does; build on a disk and copy the corpus"
            )
        return fresh

    def remove(self, tag: str) -> None:
        """Remove the document if it has this tag."""
        found = self.read()
        if found is not None and found[1] == tag:
            self._storage.delete(self._name)

    def _ignores(self, document: bytes) -> bool:
        """Try what must fail: to create what was just created. Some services ignore the condition without a word."""
        return self._storage.put_if(self._name, document + b" ", None) is not None
