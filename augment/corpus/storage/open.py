"""New."""

from __future__ import annotations

import os

from rephase.corpus.storage.base import Storage
from rephase.corpus.storage.local import LocalStorage


def open_storage(root: str | os.PathLike[str]) -> Storage:
    """Open a local path or a URL (`s3://...`); nothing is created.

    Raises
    ------
    RequestError
        If the URL is wrong, or what it needs is not installed.
    """
    text = os.fspath(root).removeprefix("file://")
    if text.startswith("s3://"):
        from rephase.corpus.storage.s3 import S3Storage

        return S3Storage(text)
    if "://" in text:
        from rephase.corpus.storage.fsspec import FsspecStorage

        return FsspecStorage(text)
    return LocalStorage(text)
