"""Difficult places for a corpus: a disk of a few kilobytes, a read-only mount, a user without permissions."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PAGE = 4096
"""tmpfs allocates whole pages."""

NOBODY = 65534


def _mount(*words: str) -> None:
    done = subprocess.run(["mount", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mounting is not possible here: {done.stderr.strip()}")


@contextmanager
def small_disk(folder: Path, num_bytes: int) -> Iterator[Path]:
    """Mount a tmpfs of this size."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    folder.mkdir(parents=True, exist_ok=True)
    _mount("-t", "tmpfs", "-o", f"size={num_bytes},mode=0777", "tmpfs", str(folder))
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def free_pages(disk: Path) -> int:
    found = os.statvfs(disk)
    return found.f_bavail * found.f_frsize // PAGE


def fill(disk: Path, leave_pages: int) -> Path:
    """Fill the disk but for some pages; return the file whose removal frees them."""
    filler = disk / "filler"
    filler.unlink(missing_ok=True)
    with filler.open("wb") as file:
        for _ in range(max(free_pages(disk) - leave_pages, 0)):
            file.write(b"x" * PAGE)
            file.flush()
    return filler


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Mount a folder read-only over itself."""
    if os.geteuid() != 0:
        pytest.skip("mounting read-only needs root")
    _mount("--bind", str(folder), str(folder))
    try:
        _mount("-o", "remount,ro,bind", str(folder))
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def without_rights() -> tuple[str, ...]:
    """Return the prefix of a command that drops root's access to files of other users."""
    words = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("giving up rights needs root and setpriv")
    return words


def give_away(folder: Path) -> None:
    """Change the owner of a folder and its content to another user."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
