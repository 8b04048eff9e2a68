from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rephase.bench.phantom import write_volumes
from rephase.builder.options import BuildOptions
from rephase.builder.run import build
from rephase.cluster.connect import ClusterRequest, check_spec, connect
from rephase.cluster.errors import ClusterError
from rephase.cluster.local import WORKER_ENVIRON
from rephase.cluster.ssh import ask_hosts, read_ssh, split_host, worker_specs
from rephase.cluster.worker_state import ask_workers
from rephase.manifests.parse import read_manifest

pytest.importorskip("asyncssh", reason="asyncssh is not installed")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("node1", {"host": "node1"}),
        ("me@node1:2222", {"host": "node1", "username": "me", "port": 2222}),
    ],
)
def test_hosts_are_taken_apart(text, expected):
    assert split_host(text) == expected


@pytest.mark.parametrize("spec", ["ssh:-oProxyCommand=x", "ssh:a b", "ssh:,", "ssh:a:x", "ssh:none.toml"])
def test_wrong_hosts_are_refused_before_anything_starts(spec):
    with pytest.raises(ClusterError, match="expected"):
        check_spec(spec)


def test_every_gpu_of_a_host_gets_a_worker_of_its_own():
    shape = {"num_workers": 2, "threads": 4, "memory_limit": 10**9, "gpus": ["0", "1"]}
    specs = worker_specs(read_ssh("ssh:me@box:22"), {"me@box:22": shape}, None, "")
    options = [spec["options"]["kwargs"] for spec in specs.values()]
    assert [one["env"] for one in options] == [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}]
    assert all(one["nthreads"] == 4 for one in options)


@pytest.fixture(scope="module")
def host(tmp_path_factory) -> str:
    """A real sshd on loopback with keys of its own; gives the path of a file for `ssh:`."""
    sshd = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin")
    if sshd is None or shutil.which("ssh-keygen") is None:
        pytest.skip("no sshd here (Debian: openssh-server)")
    folder = tmp_path_factory.mktemp("sshd")
    for name in ("host", "client"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    (folder / "authorized").write_bytes((folder / "client.pub").read_bytes())
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (folder / "known").write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
    (folder / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized\n"
        f"StrictModes no\nUsePAM no\nPidFile none\nPasswordAuthentication no\n"
    )
    if "PYTHONPATH" in os.environ:  # where this tree is not installed
        with (folder / "config").open("a") as file:
            file.write(f"SetEnv PYTHONPATH={os.environ['PYTHONPATH']}\n")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen([sshd, "-D", "-e", "-f", folder / "config"], stderr=log)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and server.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.05)
    if server.poll() is not None:
        pytest.skip(f"sshd does not start here: {(folder / 'log').read_text()[-200:]}")
    config = folder / "hosts.toml"
    config.write_text(
        f'hosts = ["{getpass.getuser()}@127.0.0.1:{port}"]\npython = "{sys.executable}"\nworkers = 2\n'
        f'scheduler_host = "127.0.0.1"\nkeys = ["{folder}/client"]\nknown_hosts = "{folder}/known"\n'
    )
    yield str(config)
    server.terminate()
    server.wait(10)


@pytest.mark.reliability
def test_workers_start_on_the_host_with_their_environment_and_end_with_the_cluster(host):
    def look():  # inside, so that it travels by value: the other side does not have these tests
        import os
        from pathlib import Path

        block = Path("/proc/self/environ").read_bytes().decode()
        environ = dict(entry.split("=", 1) for entry in block.split("\0") if "=" in entry)
        return os.getpid(), "SSH_CONNECTION" in os.environ, environ

    with connect(f"ssh:{host}", ClusterRequest(dashboard_address="127.0.0.1:0")) as connection:
        assert connection.num_workers() == 2
        # two deaths are enough: Dask's own count ends with the first, and the window gives the last one
        assert connection.client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.allowed_failures) == 0
        seen = ask_workers(connection.client, look)
    pids = [pid for pid, _, _ in seen.values()]
    assert len(set(pids)) == 2
    for _, through_ssh, environ in seen.values():
        assert through_ssh
        assert {name: environ.get(name) for name in WORKER_ENVIRON} == WORKER_ENVIRON
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and any(Path(f"/proc/{pid}").exists() for pid in pids):
        time.sleep(0.1)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_a_build_through_ssh_gives_the_bytes_of_a_local_one(host, tmp_path):
    manifest = read_manifest(write_volumes(tmp_path, 4, 2, 16))
    corpora = []
    for cluster in (f"ssh:{host}", "local"):
        root = tmp_path / cluster.partition(":")[0]
        options = BuildOptions(phase="smooth", cluster=cluster, workers=1, dashboard_address="127.0.0.1:0")
        said: list[str] = []
        assert build(manifest, str(root), options, say=said.append, progress=False).exit_status == 0
        assert [line for line in said if line.startswith("workers: 1 x ")]
        corpora.append({path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()})
    assert corpora[0] == corpora[1] and len(corpora[0]) > 4 * 3


def test_a_host_without_this_package_is_named_with_what_to_do(host, tmp_path):
    other = tmp_path / "hosts.toml"
    other.write_text(Path(host).read_text().replace(sys.executable, "/usr/bin/env -i /usr/bin/no-python"))
    with pytest.raises(ClusterError, match="no-python cannot run this package"):
        ask_hosts(read_ssh(f"ssh:{other}"))


def test_a_host_that_is_not_there_is_named():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(ClusterError, match=f"127.0.0.1:{port}: "):
        ask_hosts(read_ssh(f"ssh:127.0.0.1:{port}"))
