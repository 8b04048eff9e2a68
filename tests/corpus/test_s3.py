"""Corpora in S3: a real server on loopback, and between it and us a proxy that breaks what can break."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from contending import num_winners
from phantom_corpus import ROOT_ATTRIBUTES, make_arrays, make_attributes, make_corpus
from s3_server import BUCKET, CREDENTIALS, FAULTS, Proxy, s3_server, seeded
from storage_contract import check_storage
from torch.utils.data import DataLoader
from volumes import write_volumes

import rephase.corpus.storage.s3
from rephase.cli import main
from rephase.corpus.index_writer import write_index
from rephase.corpus.layout import receipt_key
from rephase.corpus.lease import Lease
from rephase.corpus.storage.open import open_storage
from rephase.corpus.storage.s3 import S3Storage
from rephase.corpus.store import CorpusStore
from rephase.corpus.verify import verify_corpus
from rephase.data.kspace_slices import KSpaceSlices
from rephase.errors import RequestError
from rephase.files import sha256

FAULT = "S3: errors, timeouts, lost connections"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with s3_server() as address:
        yield address


@pytest.fixture
def proxy(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    with Proxy(endpoint) as between:
        set_environment(monkeypatch, between.endpoint)
        monkeypatch.setattr(rephase.corpus.storage.s3, "_FIRST_DELAY_S", 0.001)
        yield between


def set_environment(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    for key, value in (CREDENTIALS | {"AWS_ENDPOINT_URL": endpoint}).items():
        monkeypatch.setenv(key, value)


def new_root(tmp_path: Path) -> str:
    return f"s3://{BUCKET}/{tmp_path.name}/c.zarr"


def contents(root: str) -> dict[str, bytes | None]:
    storage = open_storage(root)
    return {key: storage.get(key) for key in storage.keys("")}


def local_contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def quick(root: str) -> CorpusStore:
    """A corpus whose requests fail after a second of silence."""
    store = CorpusStore.open(root)
    store.storage = S3Storage(root, timeout_s=1.0)
    return store


def assert_receipts_have_their_data(root: str) -> int:
    """Give the number of receipts, each of which must name objects that are there."""
    store = CorpusStore.open(root)
    for name in store.names():
        receipt = store.receipt(name)
        assert receipt is not None
        for key, digest in receipt["checksums"].items():
            assert sha256(store.storage.get(f"volumes/{name}/{key}") or b"") == digest
    return len(store.names())


def test_s3_holds_the_bytes_of_a_disk_and_zarr_reads_them(proxy, tmp_path):
    local = make_corpus(tmp_path / "c", a={}, b={"seed": 1})
    remote = make_corpus(new_root(tmp_path), a={}, b={"seed": 1})
    for store in (local, remote):
        write_index(store, ["b", "a"])
    assert contents(remote.root) == local_contents(tmp_path / "c")
    assert verify_corpus(remote.root).problems == []
    before = len(proxy.seen)
    remote.commit_volume("a", make_arrays(), make_attributes(make_arrays(), name="a"))
    assert [method for method, _, _ in proxy.seen[before:] if method in ("PUT", "DELETE")] == []
    remote.discard("a")
    assert (remote.names(), remote.unfinished()) == (["b"], [])


def test_s3_keeps_the_contract_of_a_storage(proxy, tmp_path):
    check_storage(open_storage(new_root(tmp_path)))


@pytest.mark.parametrize("name", ["plain", "with space + plus/ünïcødé 数&x=%41"])
def test_objects_are_what_was_written_under_any_name(proxy, tmp_path, name, record_property):
    record_property("fault", "clock jumps, read-only places, paths and names of any kind")
    storage = S3Storage(f"s3://{BUCKET}/{tmp_path.name}/{name}")
    assert storage.get("a/b") is None
    assert not storage.exists("a/b")
    assert storage.keys("") == storage.children("") == []
    storage.put("a/b", b"0123456789")
    storage.put("a/c d/ä", b"")
    assert (storage.get("a/b"), storage.get("a/c d/ä")) == (b"0123456789", b"")
    assert storage.get_range("a/b", 2, 3) == b"234"
    assert storage.get_range("a/b", -3, 3) == b"789"
    assert storage.get_range("a/b", 8, 10) == b"89"
    assert storage.get_range("a/b", 10, 10) == b""
    with pytest.raises(FileNotFoundError):
        storage.get_range("a/none", 0, 1)
    held = [storage.holds("a/b", data) for data in (b"0123456789", b"012345678", b"0123456780", b"01234567890", b"")]
    assert held == [True, False, False, False, False]
    assert not storage.holds("a/none", b"")
    assert storage.keys("") == ["a/b", "a/c d/ä"]
    assert (storage.children(""), storage.children("a")) == (["a"], ["b", "c d"])
    assert storage.children_with("a", "ä") == ["c d"]
    assert pickle.loads(pickle.dumps(storage)).get("a/b") == b"0123456789"  # noqa: S301 -- our own
    storage.delete("a/b")
    storage.delete("a/b")
    assert storage.keys("") == ["a/c d/ä"]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_volume_is_committed_through_every_fault(proxy, tmp_path, fault, record_property):
    record_property("fault", FAULT)
    make_corpus(tmp_path / "c", v={"num_slices": 6})
    root = new_root(tmp_path)
    CorpusStore.create(root, ROOT_ATTRIBUTES)
    store = quick(root)
    arrays = make_arrays(num_slices=6)
    rate = 0.25 if fault == "stall" else 0.5
    proxy.schedule = seeded(1, rate, (fault,))
    store.commit_volume("v", arrays, make_attributes(arrays, name="v"))
    proxy.schedule = lambda number, method, path: ""
    assert proxy.faults() == {fault}
    assert contents(root) == local_contents(tmp_path / "c")


def break_for_good(proxy: Proxy, after: int, fault: str) -> None:
    start = len(proxy.seen)
    proxy.schedule = lambda number, method, path: fault if number - start >= after else ""


def commit_broken(proxy: Proxy, tmp_path: Path, after: int, fault: str) -> tuple[bool, int]:
    """Commit while the server goes away after so many requests. Gives whether it failed, and the number of receipts."""
    root = f"s3://{BUCKET}/{tmp_path.name}/{after} {fault}.zarr"
    CorpusStore.create(root, ROOT_ATTRIBUTES)
    arrays = make_arrays(num_slices=6)
    failed = False
    break_for_good(proxy, after, fault)
    try:
        quick(root).commit_volume("v", arrays, make_attributes(arrays, name="v")) if after > 0 else None
    except OSError as error:
        failed = True
        assert "\n" not in str(error) and root in str(error)
    except RequestError as error:
        failed = True
        assert "cannot be read" in str(error)
    proxy.schedule = lambda number, method, path: ""
    num_receipts = assert_receipts_have_their_data(root)
    CorpusStore.open(root).commit_volume("v", arrays, make_attributes(arrays, name="v"))
    reference = tmp_path / "reference"
    if not reference.exists():
        make_corpus(reference, v={"num_slices": 6})
    assert contents(root) == local_contents(reference)
    return failed, num_receipts


@pytest.mark.parametrize(
    ("after", "fault"),
    [
        pytest.param(3, "503", marks=pytest.mark.reliability),
        (6, "reset"),
        pytest.param(10, "cut", marks=pytest.mark.reliability),
        (11, "lost answer"),
    ],
)
def test_a_server_that_goes_away_leaves_no_receipt_without_its_data(
    proxy, tmp_path, monkeypatch, after, fault, record_property
):
    record_property("fault", FAULT)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "3")
    failed, _ = commit_broken(proxy, tmp_path, after, fault)
    assert failed


@pytest.mark.reliability
@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault not in ("slow", "stall")])
@pytest.mark.parametrize("after", range(1, 13, 2))
def test_a_server_that_goes_away_at_any_request(proxy, tmp_path, monkeypatch, after, fault, record_property):
    record_property("fault", FAULT)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    commit_broken(proxy, tmp_path, after, fault)


@pytest.mark.reliability
@pytest.mark.parametrize("seed", range(10))
def test_many_volumes_through_mixed_faults(proxy, tmp_path, seed, record_property):
    record_property("fault", FAULT)
    volumes = {f"v{number}": {"seed": number, "num_slices": 1 + number} for number in range(4)}
    store = make_corpus(tmp_path / "c", **volumes)
    write_index(store, [])
    root = new_root(tmp_path)
    CorpusStore.create(root, ROOT_ATTRIBUTES)
    proxy.schedule = seeded(seed, 0.3)
    remote = quick(root)

    def commit(name: str) -> None:
        arrays = make_arrays(**volumes[name])
        remote.commit_volume(name, arrays, make_attributes(arrays, name=name))

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(commit, volumes))
    write_index(remote, [])
    proxy.schedule = lambda number, method, path: ""
    assert proxy.faults() != set()
    assert contents(root) == local_contents(tmp_path / "c")


def test_a_dead_server_fails_cleanly_and_soon(proxy, tmp_path, monkeypatch, record_property):
    record_property("fault", FAULT)
    root = new_root(tmp_path)
    CorpusStore.create(root, ROOT_ATTRIBUTES)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "3")
    before = len(proxy.seen)
    break_for_good(proxy, 0, "503")
    with pytest.raises(RequestError, match=r"cannot be read \(the object store answers 503 SlowDown, tried 3 times\)"):
        CorpusStore.open(root)
    assert len(proxy.seen) - before == 3
    break_for_good(proxy, 0, "stall")
    with pytest.raises(TimeoutError, match="no answer from the object store, tried 3 times"):
        S3Storage(root, timeout_s=0.3).put("x", b"")


def test_one_builder_at_a_time_on_s3(proxy, tmp_path, record_property):
    record_property("fault", "two builders on one corpus")
    root = new_root(tmp_path)
    with Lease(root) as lease:
        lease.check()
        with pytest.raises(RequestError, match=f"{root}: held by process {os.getpid()} on .* active; wait for it"):
            Lease(root).__enter__()
    storage = open_storage(root + ".run")
    assert storage.keys("") == []
    with Lease(root):
        holder = json.loads(storage.get("lease.json"))
    storage.put("lease.json", json.dumps(holder | {"host": "elsewhere", "renewed": 9e9}).encode())
    with pytest.raises(RequestError, match=r"on elsewhere .* take it over with --break-lease"):
        Lease(root).__enter__()
    with Lease(root, break_lease=True, expiry_s=0.2, heartbeat_s=1000.0) as lease:
        storage.put("lease.json", json.dumps(holder | {"host": "elsewhere"}).encode())
        lease._expiry_s = -1.0
        with pytest.raises(RequestError, match="another builder took the lease over"):
            lease.check()
    assert json.loads(storage.get("lease.json"))["host"] == "elsewhere"


def test_of_builders_that_start_at_once_on_s3_one_wins(proxy, tmp_path, record_property):
    record_property("fault", "two builders on one corpus")
    assert num_winners(new_root(tmp_path), 4) == 1


@pytest.mark.parametrize("fault", ["lost answer", "500 but done", "503"])
def test_a_lease_whose_answer_was_lost_is_held_and_renewed(proxy, tmp_path, fault, record_property):
    record_property("fault", "two builders on one corpus")
    puts = []

    def every_other_put(number: int, method: str, path: str) -> str:
        puts.extend([path] if method == "PUT" else [])
        return fault if method == "PUT" and len(puts) % 2 else ""

    proxy.schedule = every_other_put
    with Lease(new_root(tmp_path), heartbeat_s=1000.0, expiry_s=-1.0) as lease:
        for _ in range(3):
            lease.check()
    assert fault in proxy.faults()
    assert open_storage(new_root(tmp_path) + ".run").keys("") == []


def test_a_service_that_ignores_conditions_is_refused(proxy, tmp_path):
    proxy.strip = ("if-none-match", "if-match")
    with pytest.raises(RequestError, match=r"does not support conditional writes .*; build on a disk and copy"):
        Lease(new_root(tmp_path)).__enter__()


def test_forked_loader_workers_read_s3(proxy, tmp_path):
    store = make_corpus(new_root(tmp_path), v={"num_slices": 4})
    write_index(store, [])
    slices = KSpaceSlices(store.root)
    kspace = make_arrays(num_slices=4)["kspace"]
    assert np.array_equal(slices[1][0], kspace[1])
    loader = DataLoader(slices, num_workers=2, multiprocessing_context="fork", batch_size=None)
    assert all(np.array_equal(item[0], kspace[item[5]]) for item in loader)


@pytest.mark.parametrize(
    ("root", "environment", "expected"),
    [
        (f"s3://{BUCKET}", {}, r"expected s3://BUCKET/NAME"),
        ("s3://none/c.zarr", {}, r"s3://none/c.zarr: cannot be read \(no such bucket"),
        (f"s3://{BUCKET}/c", {"AWS_ENDPOINT_URL": "nonsense"}, "Invalid endpoint: nonsense; correct the AWS_"),
        (f"s3://{BUCKET}/c", {"AWS_ACCESS_KEY_ID": None}, r"cannot be read \(.*; set AWS_ACCESS_KEY_ID and AWS_SECRET"),
    ],
)
def test_what_is_wrong_with_the_request_is_one_line(proxy, monkeypatch, capsys, root, environment, expected):
    for key, value in environment.items():
        monkeypatch.delenv(key) if value is None else monkeypatch.setenv(key, value)
    with pytest.raises(RequestError, match=expected):
        CorpusStore.open(root)
    assert main(["status", root]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_without_botocore_one_line_says_what_to_install():
    code = (
        "import sys\nsys.modules['botocore'] = None\nfrom rephase.cli import main\n"
        "sys.exit(main(['status', 's3://bucket/c.zarr']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "botocore" in done.stderr and "the extra s3 of rephase" in done.stderr


def test_every_command_takes_an_s3_url(proxy, tmp_path, record_property):
    record_property("fault", FAULT)
    manifest, root = str(write_volumes(tmp_path, 3)), new_root(tmp_path)
    assert main(["plan", manifest, root, "--phase", "smooth", "--workers", "1"]) == 0
    proxy.schedule = seeded(5, 0.1, ("503", "reset", "lost answer", "cut"))
    words = ("--phase", "smooth", "--workers", "1", "--dashboard-address", "127.0.0.1:0")
    assert main(["build", manifest, root, *words]) == 0
    assert proxy.faults() != set()
    proxy.schedule = lambda number, method, path: ""
    assert main(["status", root, "--json"]) == 0
    assert main(["verify", root]) == 0
    assert main(["report", root, "-o", str(tmp_path / "report.html")]) == 0
    assert len(KSpaceSlices(root)) == 9


@pytest.mark.reliability
def test_a_build_through_faults_and_its_resumption_give_the_bytes_of_a_disk(proxy, tmp_path, record_property):
    record_property("fault", FAULT)
    manifest, root = str(write_volumes(tmp_path, 3)), new_root(tmp_path)
    words = ("--phase", "smooth", "--workers", "1", "--dashboard-address", "127.0.0.1:0")
    proxy.schedule = seeded(6, 0.1, ("503", "reset", "lost answer", "cut"))
    assert main(["build", manifest, root, *words]) == 0
    assert main(["build", manifest, str(tmp_path / "c.zarr"), *words]) == 0
    assert contents(root) == local_contents(tmp_path / "c.zarr")
    open_storage(root).delete(receipt_key("v1"))
    assert main(["build", manifest, root, *words]) == 0
    assert contents(root) == local_contents(tmp_path / "c.zarr")


@pytest.mark.reliability
def test_listings_of_several_pages_are_whole(proxy, tmp_path):
    storage = S3Storage(f"s3://{BUCKET}/{tmp_path.name}")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: storage.put(f"volumes/v{number}/zarr.json", b""), range(1100)))
    proxy.schedule = seeded(3, 0.4)
    assert storage.keys("") == sorted(f"volumes/v{number}/zarr.json" for number in range(1100))
    assert storage.children_with("volumes", "zarr.json") == sorted(f"v{number}" for number in range(1100))
