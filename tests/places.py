"""Real places that hurt: a disk of a few kilobytes, one that may only be read, a user who may not write."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PAGE = 4096
"""tmpfs gives out whole pages."""

NOBODY = 65534


def _mount(*words: str) -> None:
    done = subprocess.run(["mount", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mounting is not possible here: {done.stderr.strip()}")


@contextmanager
def small_disk(folder: Path, num_bytes: int) -> Iterator[Path]:
    """A tmpfs of this size."""
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
    """Take all but so many pages; removing the file that is returned gives them back."""
    filler = disk / "filler"
    filler.unlink(missing_ok=True)
    with filler.open("wb") as file:
        for _ in range(max(free_pages(disk) - leave_pages, 0)):
            file.write(b"x" * PAGE)
            file.flush()
    return filler


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Mount a folder over itself, to be read only."""
    if os.geteuid() != 0:
        pytest.skip("mounting read-only needs root")
    _mount("--bind", str(folder), str(folder))
    try:
        _mount("-o", "remount,ro,bind", str(folder))
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def without_rights() -> tuple[str, ...]:
    """Words before a command that take root's power over other users' files from it."""
    words = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("giving up rights needs root and setpriv")
    return words


def give_away(folder: Path) -> None:
    """Let a folder and what is in it belong to another user."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
