"""Who may reach a cluster that this program starts: nobody without its keys, and no page without its token."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from pathlib import Path

import psutil
import pytest
from cryptography import x509
from distributed import Scheduler, Security
from paths import TESTS
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.websocket import websocket_connect

from rephase.cluster.access import run_config, run_security
from rephase.cluster.connect import ClusterRequest, connect
from rephase.cluster.errors import ClusterError
from rephase.cluster.kinds import check_access, is_open
from rephase.files import user_folder

# Dask leaves the sockets of refused connections to the garbage collector, in whichever test comes next
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module")
def cluster():
    with connect("local", ClusterRequest(num_workers=1, dashboard_address="127.0.0.1:0")) as connection:
        yield connection


def test_another_user_can_neither_run_code_nor_read_a_page(cluster):
    """Through none of the ports of the scheduler, its nanny and the worker."""
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    found = [one for process in family for one in process.net_connections("tcp") if one.status == "LISTEN"]
    assert len(found) >= 5 and {one.laddr.ip for one in found} == {"127.0.0.1"}
    ports = sorted({str(one.laddr.port) for one in found})
    done = subprocess.run(
        [sys.executable, TESTS / "stranger.py", *ports], capture_output=True, text=True, timeout=100, check=True
    )
    lines = done.stdout.splitlines()
    assert len(lines) >= 2 and all(line.endswith(": 403") for line in lines), done.stdout


def get(cluster, path, **headers):
    host, port = cluster.client.dashboard_link.split("/")[2].split(":")
    http = HTTPConnection(host, int(port), timeout=30)
    http.request("GET", path, headers=headers)
    answer = http.getresponse()
    answer.body = answer.read()
    http.close()
    return answer


def test_a_page_is_shown_to_whoever_has_its_token(cluster):
    assert cluster.dashboard.endswith(f"/status?token={cluster.token}") and len(cluster.token) >= 32
    assert get(cluster, "/metrics", Authorization=f"Bearer {cluster.token}").status == 200
    moved = get(cluster, f"/individual-plots.json?a=1&token={cluster.token}&b=2")
    assert (moved.status, moved.getheader("Location")) == (302, "/individual-plots.json?a=1&b=2")
    cookie = moved.getheader("Set-Cookie")
    assert "HttpOnly" in cookie and "SameSite=Lax" in cookie
    shown = get(cluster, moved.getheader("Location"), Cookie=cookie.partition(";")[0])
    assert shown.status == 200 and b"/individual" in shown.body


@pytest.mark.parametrize("path", ["/", "/status", "/metrics", "/health", "/info/main/workers.html", "/sitemap.json"])
@pytest.mark.parametrize("word", [None, "", "x", "{token}x"])
def test_a_page_is_shown_to_nobody_else(cluster, path, word):
    word = None if word is None else word.format(token=cluster.token)
    headers = {} if word is None else {"Authorization": f"Bearer {word}"}
    for asked in (path, path if word is None else f"{path}?token={word}"):
        answer = get(cluster, asked, **headers)
        assert answer.status == 403 and answer.getheader("Set-Cookie") is None and len(answer.body) < 200


def test_the_token_leads_to_no_other_machine(cluster):
    assert get(cluster, f"//elsewhere.example/x?token={cluster.token}").getheader("Location") == "/elsewhere.example/x"


@pytest.mark.parametrize("known", [True, False])
def test_the_websocket_of_a_page_asks_for_the_token_too(cluster, known):
    port = cluster.client.dashboard_link.split("/")[2].split(":")[1]
    headers = {"Cookie": f"rephase-{port}={cluster.token if known else 'x'}"}

    async def open_socket():
        request = HTTPRequest(f"ws://127.0.0.1:{port}/eventstream", headers=headers)
        (await websocket_connect(request)).close()

    if known:
        asyncio.run(open_socket())
    else:
        with pytest.raises(HTTPClientError, match="403"):
            asyncio.run(open_socket())


def test_what_other_processes_of_a_run_are_given_has_all_keys():
    """A worker that lacked one would speak TLS with the keys of the user's own configuration."""
    security = Security.temporary()
    given = run_config(security, "word")
    for role in ("client", "scheduler", "worker"):
        tls = security.get_tls_config_for_role(role)
        assert given[f"distributed.comm.tls.{role}.key"] == tls["key"]
        assert given[f"distributed.comm.tls.{role}.cert"] == tls["cert"]
    assert given["distributed.comm.require-encryption"] is True and given["rephase.dashboard-token"] == "word"


@pytest.mark.parametrize(
    ("spec", "is_refused"),
    [
        ("tcp://127.0.0.1:8786", False),
        ("tcp://localhost:8786", False),
        ("tcp://[::1]:8786", False),
        ("tls://10.0.0.1:8786", False),
        ("local", False),
        ("tcp://10.0.0.1:8786", True),
        ("tcp://10.0.0.1", True),
        ("tcp://[fe80::1]:8786", True),
        ("tcp://0.0.0.0:8786", True),
    ],
)
def test_plain_tcp_to_another_machine_needs_consent(spec, is_refused):
    assert is_open(spec) is is_refused
    check_access(spec, insecure=True)
    if is_refused:
        with pytest.raises(ClusterError, match=r"plain TCP.*--insecure") as caught:
            check_access(spec, insecure=False)
        assert "\n" not in str(caught.value)
    else:
        check_access(spec, insecure=False)


def test_servers_import_from_no_folder_that_others_may_write_to(cluster):
    """Dask's own, in `/tmp`, has one name for all users, and servers put it first in their import path."""
    folders = [scheduler.local_directory for scheduler in Scheduler._instances]
    folders += [one["local_directory"] for one in cluster.client.scheduler_info()["workers"].values()]
    assert len(folders) >= 2
    for folder in folders:
        assert Path(folder).is_relative_to(user_folder()), folder
    assert user_folder().stat().st_mode & 0o077 == 0


def test_keys_are_valid_for_machines_whose_clock_is_wrong_or_is_set_back():
    first, second = run_security(), run_security()
    certificate = x509.load_pem_x509_certificate(first.tls_ca_file.encode())
    now = datetime.now(UTC)
    assert certificate.not_valid_before_utc < now - timedelta(days=50 * 365)
    assert certificate.not_valid_after_utc > now + timedelta(days=50 * 365)
    assert first.require_encryption and first.tls_worker_key != second.tls_worker_key
