"""Open the storage that a path or URL names."""

from __future__ import annotations

import os
from pathlib import Path

from rephase.corpus.storage.base import Storage, run_folder
from rephase.corpus.storage.local import LocalStorage
from rephase.text import is_url


def open_storage(root: str | os.PathLike[str], token: str = "") -> Storage:
    """Open a local path, `s3://BUCKET/NAME`, or another URL (read-only), without creating it.

    With the `token` of a lease, a local storage can only be written while that lease is held.

    Raises
    ------
    RequestError
        If the URL is malformed, or a package that it needs is not installed.
    """
    text = os.fspath(root).removeprefix("file://")
    if text.startswith("s3://"):
        from rephase.corpus.storage.s3 import S3Storage

        return S3Storage(text)
    if is_url(text):
        from rephase.corpus.storage.fsspec import FsspecStorage

        return FsspecStorage(text)
    return LocalStorage(text, token=token)


def open_run_folder(root: str | os.PathLike[str], token: str = "") -> Storage:
    """Open the folder next to a corpus for its lease, logs and unfinished files; `token` as for `open_storage`."""
    corpus = open_storage(root)  # its errors name the corpus
    folder = run_folder(corpus.root)
    return LocalStorage(folder, Path(folder) / "partial", token) if corpus.is_local else open_storage(folder)
