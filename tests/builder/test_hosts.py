"""Several hosts for real: network namespaces with a link each, Dask's own commands, TLS; one host is cut off."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from paths import TESTS

from rephase.bench.phantom import make_magnitude, write_volumes
from rephase.builder.options import BuildOptions
from rephase.builder.run import build
from rephase.manifests.parse import read_manifest

NET = "10.213.77"
SCHEDULER = f"{NET}.2"
HOSTS = {"s": SCHEDULER, "a": f"{NET}.11", "b": f"{NET}.12"}


def _ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def hosts():
    """Three hosts on one switch, and this process on it too; gives the prefix of their names."""
    if os.getuid() or shutil.which("ip") is None or shutil.which("openssl") is None:
        pytest.skip("needs root, iproute2 and openssl")
    tag = f"pg{os.getpid() % 100_000}"
    try:
        _ip("link", "add", tag, "type", "bridge")
        _ip("addr", "add", f"{NET}.1/24", "dev", tag)
        _ip("link", "set", tag, "up")
        for name, address in HOSTS.items():
            host = f"{tag}{name}"
            _ip("netns", "add", host)
            _ip("link", "add", host, "type", "veth", "peer", "name", "eth0", "netns", host)
            _ip("link", "set", host, "master", tag, "up")
            _ip("-n", host, "addr", "add", f"{address}/24", "dev", "eth0")
            _ip("-n", host, "link", "set", "eth0", "up")
            _ip("-n", host, "link", "set", "lo", "up")
    except subprocess.CalledProcessError as error:
        _remove(tag)
        pytest.skip(f"no network namespaces here: {error.stderr.decode().strip()}")
    yield tag
    _remove(tag)


def _remove(tag):
    for name in HOSTS:
        subprocess.run(["ip", "netns", "del", f"{tag}{name}"], capture_output=True)
    subprocess.run(["ip", "link", "del", tag], capture_output=True)


def _certificate(folder: Path) -> dict[str, str]:
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=rephase"]
    names = f"subjectAltName={','.join(f'IP:{one}' for one in HOSTS.values())}"
    subprocess.run(
        [*words, "-addext", names, "-keyout", folder / "key.pem", "-out", folder / "cert.pem"],
        check=True,
        capture_output=True,
    )
    tls = {"CA_FILE": f"{folder}/cert.pem"}
    for role in ("SCHEDULER", "WORKER", "CLIENT"):
        tls |= {f"{role}__CERT": f"{folder}/cert.pem", f"{role}__KEY": f"{folder}/key.pem"}
    settings = {f"DASK_DISTRIBUTED__COMM__TLS__{name}": value for name, value in tls.items()}
    return settings | {
        "DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "True",
        "DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "12s",
        "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "120s",
        "OMP_NUM_THREADS": "1",
    }


def _workers() -> int:
    try:
        with urllib.request.urlopen(f"http://{SCHEDULER}:8787/json/counts.json", timeout=5) as answer:
            return json.load(answer)["workers"]
    except OSError:
        return -1


def _until(condition, process=None, seconds=180):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        assert process is None or process.poll() is None, "the build ended before"
        time.sleep(0.2)


def _files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.reliability
def test_a_build_over_tls_outlives_a_host_that_is_cut_off_and_comes_back(hosts, tmp_path):
    manifest = write_volumes(tmp_path, 20, 6, 64)
    np.save(tmp_path / "waits.npy", make_magnitude(6, 64))  # its reader waits until the file appears
    waiting = [f"w{number},waits.npy,6,64,64\n" for number in range(20)]
    manifest.write_text(manifest.read_text() + "".join(waiting))
    go = tmp_path / "go"
    preload = str(TESTS / "faulty_reader.py")
    faulty = {"DASK_DISTRIBUTED__WORKER__PRELOAD": preload, "FAULTY_READER_GO": str(go)}
    environment = {**os.environ, **_certificate(tmp_path), **faulty}

    def start(host, *words):
        inside = ["ip", "netns", "exec", f"{hosts}{host}"] if host else []
        with (tmp_path / f"{host or 'build'}.log").open("wb") as log:
            return subprocess.Popen([*inside, sys.executable, "-m", *words], env=environment, stdout=log, stderr=log)

    address = f"tls://{SCHEDULER}:8786"
    running = [start("s", "distributed.cli.dask_scheduler", "--host", SCHEDULER, "--protocol", "tls",
                     "--dashboard-address", f"{SCHEDULER}:8787")]  # fmt: skip
    try:
        _until(lambda: _workers() == 0)

        def work(name):
            words = ["--host", HOSTS[name], "--nworkers", "1", "--nthreads", "2", "--local-directory", str(tmp_path)]
            running.append(start(name, "distributed.cli.dask_worker", address, *words))

        work("a")
        work("b")
        _until(lambda: _workers() == 2)
        root = tmp_path / "far.zarr"
        words = ["build", str(manifest), str(root), "--phase", "smooth", "--cluster", address, "--workers", "2"]
        builder = start("", "rephase.cli", *words)
        running.append(builder)
        _until(lambda: len(list(root.glob("volumes/*/zarr.json"))) >= 4, builder)
        _ip("link", "set", f"{hosts}b", "down")
        _until(lambda: _workers() == 1)
        _ip("link", "set", f"{hosts}b", "up")
        work("b")  # Dask's own worker ends when it has lost its scheduler; who brings a host back starts another
        _until(lambda: _workers() == 2)
        assert len(list(root.glob("volumes/*/zarr.json"))) <= 20, "the build did not wait"
        go.touch()
        status = builder.wait(400)
        assert status == 0, (tmp_path / "build.log").read_text()[-2000:]
    finally:
        go.touch()
        for process in reversed(running):
            process.terminate()
        for process in running:
            process.wait(60)
    here = tmp_path / "here.zarr"
    options = BuildOptions(phase="smooth", workers=1, dashboard_address="127.0.0.1:0")
    assert build(read_manifest(manifest), str(here), options, say=lambda _: None, progress=False).exit_status == 0
    assert _files(root) == _files(here)
