"""Remove from a corpus what belongs to nothing in it, and never anything outside of it."""

from __future__ import annotations

import shutil
from pathlib import Path

from augment.storage import Storage


def remove_stray(storage: Storage, key: str) -> None:
    """Remove a file, or a folder with all that is in it; a link is removed, not what it points to.

    Parameters
    ----------
    storage
        Of the corpus.
    key
        As `verify` lists it.

    Raises
    ------
    OSError
        If it cannot be removed.
    """
    if "://" in storage.root:
        for inner in dict.fromkeys([key, *storage.keys(key)]):
            storage.delete(inner)
        return
    path = Path(storage.root) / key
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path)
