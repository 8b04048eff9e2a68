"""Faults of the place where a corpus lies: a full disk, two writers, missing rights, awkward paths. The real thing."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import pytest
from forks import FORKS
from phantom_corpus import ROOT_ATTRIBUTES, make_arrays, make_attributes, make_corpus
from places import fill, free_pages, give_away, read_only, small_disk, without_rights
from volumes import write_volumes

from rephase.cli import main
from rephase.corpus.index import INDEX_KEY, read_index
from rephase.corpus.index_writer import write_index
from rephase.corpus.store import CorpusStore
from rephase.corpus.verify import verify_corpus
from rephase.data.kspace_slices import KSpaceSlices
from rephase.errors import RequestError


@dataclass
class Done:
    """How a command ended: its exit status, what it printed, and its lines on standard error."""

    status: int
    out: str
    err: list[str]


Command = Callable[..., Done]

FULL = "disk full"
TWICE = "the same task run twice at once"
PLACES = "clock jumps, read-only places, paths and names of any kind"


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def rephase(scheduler: str, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command in this process; a build runs on two worker processes that are there already."""

    def run(*words: object) -> Done:
        more = ("--phase", "smooth", "--cluster", scheduler) if words[0] == "build" else ()
        status = main([*map(str, words), *more])
        printed = capsys.readouterr()
        said = [line for line in printed.err.splitlines() if line and "volume" not in line[-60:]]
        return Done(status, printed.out, [line for line in said if not line.startswith(("dashboard: ", "workers: "))])

    return run


def assert_one_line(done: Done, status: int, *expected: str) -> None:
    assert (done.status, len(done.err)) == (status, 1), done
    for text in expected:
        assert text in done.err[0]


# a full disk


def commit_with(disk: Path, pages: int) -> str:
    """Commit a volume and its index with so many pages left; gives the key at which the disk was full, or nothing."""
    root = disk / "c.zarr"
    store = CorpusStore.create(root, ROOT_ATTRIBUTES)
    arrays = make_arrays(num_slices=20, height=32)
    filler = fill(disk, pages)
    stopped_at = ""
    try:
        store.commit_volume("v", arrays, make_attributes(arrays, name="v"))
        write_index(store, [])
    except OSError as error:
        assert error.errno == errno.ENOSPC
        stopped_at = Path(error.filename).relative_to(root).as_posix()
    assert store.names() == (["v"] if stopped_at in ("", INDEX_KEY) else [])
    assert not any(path.suffix == ".partial" for path in root.rglob("*"))
    assert list((disk / "c.zarr.run/partial").glob("*")) == []
    filler.unlink()
    store.commit_volume("v", arrays, make_attributes(arrays, name="v"))
    write_index(store, [])
    reference = disk.with_name("reference")
    if not reference.exists():
        write_index(make_corpus(reference, v={"num_slices": 20, "height": 32}), [])
    assert contents(root) == contents(reference)
    assert verify_corpus(root).problems == []
    shutil.rmtree(root)
    return stopped_at


def test_a_disk_that_fills_up_at_every_object_names_it_and_resumes_to_equal_bytes(tmp_path, record_property):
    record_property("fault", FULL)
    with small_disk(tmp_path / "disk", 1 << 20) as disk:
        stopped = {commit_with(disk, pages) for pages in range(0, 70, 3)}
    assert "volumes/v/kspace/c.0.0.0" in stopped and "" in stopped


@pytest.mark.reliability
@pytest.mark.parametrize("pages", range(0, 70, 2))
def test_a_disk_with_any_number_of_pages_left(tmp_path, pages, record_property):
    record_property("fault", FULL)
    with small_disk(tmp_path / "disk", 1 << 20) as disk:
        commit_with(disk, pages)


def full_at(disk: Path, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill the disk at the moment when an object is about to be written: the write itself is the real one."""
    from rephase.corpus.storage.local import LocalStorage

    put = LocalStorage.put_blocks

    def fill_and_put(self: LocalStorage, at: str, blocks: Iterable[bytes]) -> None:
        if at == key and not (disk / "filler").exists():
            fill(disk, 0)
        put(self, at, blocks)

    monkeypatch.setattr(LocalStorage, "put_blocks", fill_and_put)


@pytest.mark.parametrize("key", ["volumes/v/reconstruction_esc/c.0.0.0", "volumes/v/zarr.json", INDEX_KEY, "zarr.json"])
def test_a_disk_that_is_full_just_then(tmp_path, monkeypatch, key, record_property):
    record_property("fault", FULL)
    arrays = make_arrays()
    with small_disk(tmp_path / "disk", 1 << 20) as disk:
        store = CorpusStore.create(disk / "c", ROOT_ATTRIBUTES)
        with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left on device") as caught:
            full_at(disk, key, patch)
            store.commit_volume("v", arrays, make_attributes(arrays, name="v"))
            write_index(store, [])
            store.write_attributes(ROOT_ATTRIBUTES)
        assert caught.value.filename == f"{disk}/c/{key}"
        assert store.names() == ([] if "volumes" in key else ["v"])
        (disk / "filler").unlink()
        store.commit_volume("v", arrays, make_attributes(arrays, name="v"))
        write_index(store, [])
        write_index(make_corpus(tmp_path / "reference", v={}), [])
        assert contents(disk / "c") == contents(tmp_path / "reference")


def build_on_full_disk(rephase: Command, tmp_path: Path, leave_pages: int) -> None:
    manifest = write_volumes(tmp_path, 4)
    assert rephase("build", manifest, tmp_path / "reference.zarr").status == 0
    with small_disk(tmp_path / "disk", 4 << 20) as disk:
        filler = fill(disk, leave_pages)
        done = rephase("build", manifest, disk / "c.zarr")
        if done.status == 0:
            pytest.skip(f"{leave_pages} pages were enough")
        said = done.out + "".join(done.err)
        assert "No space left on device" in said and str(disk / "c.zarr") in said
        if done.status == 1:
            assert "free space and run the same command again" in done.out
        else:
            assert_one_line(done, 2, "cannot be written (No space left on device)")
        filler.unlink()
        again = rephase("build", manifest, disk / "c.zarr", "--retry-failed")
        assert again.status == 0, again
        assert contents(disk / "c.zarr") == contents(tmp_path / "reference.zarr")


def test_a_build_on_a_full_disk_says_so_and_is_resumed(rephase, tmp_path, record_property):
    record_property("fault", FULL)
    build_on_full_disk(rephase, tmp_path, 30)


@pytest.mark.reliability
@pytest.mark.parametrize("leave_pages", [0, 2, 5, 12, 18, 22, 25, 35])
def test_builds_on_disks_with_little_left(rephase, tmp_path, leave_pages, record_property):
    record_property("fault", FULL)
    build_on_full_disk(rephase, tmp_path, leave_pages)


# two writers


def commit_repeatedly(root: Path, seed: int, start: Barrier) -> None:
    arrays = make_arrays(num_slices=24, height=64, width=64, seed=seed)
    store = CorpusStore.open(root)
    start.wait()
    for _ in range(4):
        store.commit_volume("v", arrays, make_attributes(arrays, name="v"))
        assert store.receipt("v") is not None, "a volume that was committed is gone"


def commit_at_once(tmp_path: Path, seed: int, writers: int, kill: bool) -> None:
    root = tmp_path / f"c{seed}"
    CorpusStore.create(root, ROOT_ATTRIBUTES)
    start = FORKS.Barrier(writers + 1)
    processes = [FORKS.Process(target=commit_repeatedly, args=(root, seed, start)) for _ in range(writers)]
    for process in processes:
        process.start()
    start.wait()
    if kill:
        processes[0].kill()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes[kill:]] == [0] * (writers - kill)
    reference = make_corpus(tmp_path / f"r{seed}", v={"num_slices": 24, "height": 64, "width": 64, "seed": seed})
    assert contents(root) == contents(Path(reference.root))


def test_one_volume_committed_twice_at_once_is_one_volume_and_never_goes_away(tmp_path, record_property):
    record_property("fault", TWICE)
    commit_at_once(tmp_path, 0, writers=2, kill=False)


@pytest.mark.reliability
@pytest.mark.parametrize("seed", range(1, 11))
def test_one_volume_committed_many_times_at_once_while_one_dies(tmp_path, seed, record_property):
    record_property("fault", TWICE)
    commit_at_once(tmp_path, seed, writers=3, kill=seed % 2 == 0)


# places and rights


def make_indexed(root: Path) -> CorpusStore:
    store = make_corpus(root, v={}, w={"seed": 1})
    write_index(store, [])
    return store


def test_a_corpus_that_may_only_be_read_is_read_and_not_built(rephase, tmp_path, record_property):
    record_property("fault", PLACES)
    manifest = write_volumes(tmp_path / "in", 1)
    shelf = tmp_path / "shelf"
    assert rephase("build", manifest, shelf / "c.zarr").status == 0
    with read_only(shelf):
        for words in (["status"], ["verify"], ["report", "-o", str(tmp_path / "report.html")]):
            done = rephase(words[0], shelf / "c.zarr", *words[1:])
            assert done.status == 0, done
        assert len(KSpaceSlices(shelf / "c.zarr")) == 3
        assert_one_line(rephase("build", manifest, shelf / "new.zarr"), 2, "Read-only file system", "new.zarr")
        assert_one_line(rephase("build", manifest, shelf / "c.zarr"), 2, "Read-only file system", "c.zarr")
        store = CorpusStore.open(shelf / "c.zarr")
        arrays = make_arrays(seed=5)
        with pytest.raises(OSError, match="Read-only file system") as caught:
            store.commit_volume("v", arrays, make_attributes(arrays, name="v"))
        assert caught.value.errno == errno.EROFS
    assert rephase("verify", shelf / "c.zarr").status == 0


RUN_ALL = """
import io, json, sys
from contextlib import redirect_stderr, redirect_stdout
from rephase.cli import main
results = []
for words in json.loads(sys.argv[1]):
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        status = main(words)
    results.append((status, out.getvalue(), err.getvalue()))
print(json.dumps(results))
"""


def test_a_user_without_rights_gets_one_line(tmp_path, record_property):
    record_property("fault", PLACES)
    manifest = write_volumes(tmp_path / "in", 1)
    shelf = tmp_path / "shelf"
    for name in ("shard.zarr", "root.zarr"):
        make_indexed(shelf / name)
    give_away(shelf)
    (shelf / "shard.zarr/volumes/v/kspace/c.0.0.0").chmod(0o600)
    (shelf / "root.zarr/zarr.json").chmod(0o600)
    commands = [
        ["build", str(manifest), str(shelf / "new.zarr"), "--phase", "smooth"],
        ["verify", str(shelf / "shard.zarr")],
        ["status", str(shelf / "root.zarr")],
    ]
    command = [*without_rights(), sys.executable, "-c", RUN_ALL, json.dumps(commands)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    build, verify, status = (Done(code, out, err.splitlines()) for code, out, err in json.loads(said))
    assert_one_line(build, 2, f"{shelf / 'new.zarr'}: cannot be written (Permission denied)")
    assert (verify.status, [line for line in verify.err if "Traceback" in line]) == (1, [])
    assert "v" in verify.out and "kspace/c.0.0.0" in verify.out and "Permission denied" in verify.out
    assert_one_line(status, 2, "cannot be read (Permission denied)")


@pytest.mark.parametrize(
    "name", ["with space.zarr", "ünïcødé 数据.zarr", "quote'\"$(x).zarr", "-dash.zarr", "100%25.zarr"]
)
def test_awkward_names_hold_a_corpus(tmp_path, name, record_property):
    record_property("fault", PLACES)
    store = make_indexed(tmp_path / name)
    assert (store.names(), verify_corpus(tmp_path / name).problems) == (["v", "w"], [])
    assert np.array_equal(KSpaceSlices(tmp_path / name)[0][0], make_arrays()["kspace"][0])


def test_a_build_with_relative_paths_and_awkward_names_from_another_folder(
    rephase, tmp_path, monkeypatch, record_property
):
    record_property("fault", PLACES)
    folder = tmp_path / "my volumes ü"
    manifest = write_volumes(folder, 2)
    manifest.rename(folder / "the manifest 数.csv")
    work = tmp_path / "elsewhere here"
    work.mkdir()
    monkeypatch.chdir(work)  # the workers stay where they were started
    done = rephase("build", "../my volumes ü/the manifest 数.csv", "out put/ünï.zarr")
    assert done.status == 0, done
    assert "2 of 2 volumes committed" in done.out
    assert read_index(work / "out put/ünï.zarr").names == ["v0", "v1"]
    monkeypatch.chdir(folder)
    assert rephase("verify", "../elsewhere here/out put/ünï.zarr").status == 0
    again = rephase("build", folder / "the manifest 数.csv", work / "out put/ünï.zarr")
    assert "all of them in earlier runs" in again.out


def test_a_corpus_that_is_a_mount_point_of_its_own_is_built(tmp_path, record_property):
    record_property("fault", PLACES)
    with small_disk(tmp_path / "c.zarr", 1 << 20) as root:
        store = make_indexed(root)
        assert free_pages(root) > 0
        assert verify_corpus(root).problems == []
        assert store.names() == ["v", "w"]


def test_where_no_corpus_can_be_is_one_line(tmp_path, record_property):
    record_property("fault", PLACES)
    (tmp_path / "file").write_text("mine")
    for root in (tmp_path / "file", tmp_path / "file/below.zarr"):
        with pytest.raises(RequestError, match=r"\S"):
            CorpusStore.open(root)
    assert (tmp_path / "file").read_text() == "mine"
