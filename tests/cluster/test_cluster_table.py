"""The table of clusters: what is registered there can be used by the commands, and the document lists it."""

from __future__ import annotations

import re
from contextlib import contextmanager

import pytest
from paths import PROJECT

from rephase.bench.phantom import write_volumes
from rephase.cli import main
from rephase.cluster.connect import Connection, check_spec, open_client, wait_for_workers
from rephase.cluster.errors import ClusterError
from rephase.cluster.kinds import CLUSTERS, ClusterKind
from rephase.cluster.local import local_shape, start_local


def check(spec):
    if not spec.removeprefix("dummy:").isdigit():
        raise ClusterError(f"--cluster {spec}: expected dummy:COUNT")


def job_script(spec):
    return f"#!/bin/dummy\nstart {spec.removeprefix('dummy:')}"


@contextmanager
def connect(spec, request):
    """The dummy kind: as many workers on this machine as its specification says."""
    count = int(spec.removeprefix("dummy:"))
    shape = local_shape(count)
    with start_local(shape, request.dashboard_address, request.preload) as cluster, open_client(cluster) as client:
        wait_for_workers(client, count, request.timeout, spec)
        yield Connection(client)


@pytest.fixture
def dummy(monkeypatch):
    monkeypatch.setitem(CLUSTERS, "dummy", ClusterKind(__name__, ("dummy:COUNT",), "as many workers as it says"))


def test_a_kind_in_one_file_is_used_through_the_commands(dummy, tmp_path, capsys):
    command = [str(write_volumes(tmp_path, 1, 2, 8)), str(tmp_path / "c.zarr"), "--phase", "smooth", "--cluster"]
    assert main(["plan", *command, "dummy:1"]) == 0
    assert "start 1" in capsys.readouterr().out
    assert main(["build", *command, "dummy:1", "--dashboard-address", "127.0.0.1:0"]) == 0
    assert (tmp_path / "c.zarr/volumes/v0000/zarr.json").exists()
    assert main(["build", *command, "dummy:x"]) == 2
    assert main(["build", *command, "dummi:1"]) == 2
    assert "dummy:COUNT" in capsys.readouterr().err


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    kind = ClusterKind(__name__, ("dummy:COUNT",), "", extra="some", packages=("no_such_package",))
    monkeypatch.setitem(CLUSTERS, "dummy", kind)
    with pytest.raises(ClusterError, match=r"no_such_package is not installed.*extra some of rephase"):
        check_spec("dummy:1")


def test_the_document_lists_every_kind_and_extra():
    rows = re.findall(
        r"^\| (`.*`)[^|]* \| ([^|]*) \| ([^|]*) \|$", (PROJECT / "cluster/README.md").read_text("utf-8"), re.M
    )
    found = {re.findall(r"`([^`]+)`", forms)[0]: (forms, where, extra) for forms, where, extra in rows}
    for kind in CLUSTERS.values():
        forms, where, extra = found[kind.forms[0]]
        assert tuple(re.findall(r"`([^`]+)`", forms)) == kind.forms
        assert (where, extra) == (kind.help, f"`{kind.extra}`" if kind.extra else "–")
