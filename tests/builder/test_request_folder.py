"""The folder beside a corpus belongs to its builder: nobody else reads logs, lease and notes in it."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from rephase.builder.request import note_request, noted_manifest, noted_places
from rephase.builder.runlog import RunLog
from rephase.corpus.lease import Lease
from rephase.corpus.storage.base import run_folder
from rephase.corpus.storage.open import open_storage
from rephase.files import private_folder, user_folder


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def make(root: Path) -> Path:
    with Lease(str(root)) as lease, RunLog(str(root), {}, lease.token) as log:
        log.strike("v", "", "")
        open_storage(str(root), lease.token).put("zarr.json", b"{}")
        folder = Path(run_folder(str(root)))
        assert mode(folder) == 0o700 and mode(folder / "lease.json") == 0o600
    return folder


@pytest.mark.parametrize("before", [None, 0o755, 0o777])
def test_logs_are_private_and_a_corpus_is_not(tmp_path, before):
    folder = tmp_path / "c.zarr.run"
    if before is not None:
        folder.mkdir()
        folder.chmod(before)
    mask = os.umask(0o022)
    try:
        make(tmp_path / "c.zarr")
    finally:
        os.umask(mask)
    assert mode(folder) == 0o700
    files = [*folder.glob("runs/*"), *folder.glob("*.json")]
    assert len(files) >= 3 and {mode(path) for path in files} == {0o600}
    assert (mode(tmp_path / "c.zarr"), mode(tmp_path / "c.zarr/zarr.json")) == (0o755, 0o644)


READ = "import os, sys; os.setgroups([]); os.setgid(65534); os.setuid(65534); print(os.listdir(sys.argv[1]))"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_cannot_look_in(tmp_path):
    folder = make(tmp_path / "c.zarr")
    done = subprocess.run([sys.executable, "-c", READ, folder], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "PermissionError" in done.stderr


def test_a_folder_for_temporary_files_that_somebody_else_made_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    mine = user_folder()
    assert mine == user_folder() == tmp_path / f"rephase-{os.geteuid()}" and mode(mine) == 0o700
    mine.rmdir()
    (tmp_path / "elsewhere").mkdir()
    mine.symlink_to(tmp_path / "elsewhere")
    other = user_folder()
    assert other != mine and mode(other) == 0o700


def test_a_private_folder_is_made_with_ordinary_ones_above(tmp_path):
    private_folder(tmp_path / "a" / "b")
    assert mode(tmp_path / "a" / "b") == 0o700 and mode(tmp_path / "a") & 0o050 == 0o050


def test_a_request_is_noted_without_secrets(tmp_path):
    root = str(tmp_path / "c.zarr")
    assert noted_manifest(root) is None and noted_places(root, "checkpoints") == []
    note_request(root, "/m/1.csv", {"checkpoints": Path("/w/1.safetensors"), "banks": None})
    note_request(root, "https://user:PASSWORD@h/m.csv", {"checkpoints": Path("/w/2.safetensors"), "banks": None})
    assert noted_manifest(root) == "/m/1.csv"
    assert noted_places(root, "checkpoints") == ["/w/2.safetensors", "/w/1.safetensors"]
    assert noted_places(root, "banks") == []
    (tmp_path / "c.zarr.run/request.json").write_bytes(b"{")
    assert noted_manifest(root) is None
