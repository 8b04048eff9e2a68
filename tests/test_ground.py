"""The ground floor: files that are replaced whole, errors in one line."""

from __future__ import annotations

import errno
import hashlib
import re
from pathlib import Path

import pytest
from paths import PROJECT

from rephase.errors import is_disk_full
from rephase.files import file_sha256, replacing, sha256
from rephase.text import install_hint, one_line


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with replacing(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_keeps_the_old_file_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(OSError, match="full"), replacing(path, tmp_path / "other") as partial:
        partial.write_text("new")
        raise OSError(errno.ENOSPC, "disk full")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_digests(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(b"abc") == file_sha256(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()


def test_an_error_is_one_line_of_bounded_length() -> None:
    assert one_line(ValueError("a\n  b")) == "a b"
    assert one_line(KeyError()) == "KeyError"
    assert len(one_line("x" * 1000)) == 200
    assert one_line("x" * 1000, 10) == "xxxxxxx..."


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_and_a_full_quota(code: int) -> None:
    assert is_disk_full(OSError(code, ""))
    assert not is_disk_full(OSError(errno.EIO, ""))
    assert not is_disk_full(ValueError())


def test_no_text_names_a_distribution_on_an_index():
    """What is on a package index under this name, or will be, may be somebody else's."""
    folders = [PROJECT / name for name in ("augment", "cluster", "diffusion", "manifests")]
    paths = [PROJECT / "README.md", *(path for folder in folders for path in folder.rglob("*.[mp][dy]"))]
    lines = [f"{path}: {line}" for path in paths for line in path.read_text("utf-8").splitlines()]
    assert len(paths) > 200 and [line for line in lines if re.search(r"pip install ['\"]?\w+\[", line)] == []


def test_the_hint_for_an_extra_names_the_distribution_and_a_checkout():
    assert install_hint("s3") == "install the extra s3 of rephase (in a checkout: pip install '.[s3]')"
