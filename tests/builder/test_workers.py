"""Workers of a scheduler that runs already, started by Dask's own commands: what they must be, what is said."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from build_process import PROJECT, wait_until
from dask_programs import dask_program, dask_scheduler
from distributed import Client

from rephase.bench.phantom import make_magnitude, write_volumes
from rephase.builder.options import BuildOptions
from rephase.builder.run import build
from rephase.builder.runlog import read_run, run_names
from rephase.errors import RequestError
from rephase.manifests.parse import read_manifest

OTHER_ALGORITHM = (
    "import rephase.pipeline.environment as e, rephase.pipeline.recipe as r\ne.ALGORITHM = r.ALGORITHM = 99\n"
)
OTHER_TORCH = "import torch\ntorch.__version__ = '0.0.1'\n"
OTHER_VERSION = """
from importlib import metadata
metadata.version = lambda name, known=metadata.version: "0.0.1" if name == {name!r} else known(name)
"""
NO_PACKAGE = """
import sys
class Absent:
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] == "rephase":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent)
for name in [name for name in sys.modules if name.partition(".")[0] == "rephase"]:
    del sys.modules[name]
"""


class Place:
    """A scheduler, and workers for the time of a test."""

    def __init__(self, folder: Path, address: str) -> None:
        self.folder, self.address = folder, address

    @contextmanager
    def worker(self, preload: str = "", nanny: bool = False, **environment: str):
        """A worker process; the code of `preload` stands for what differs on another machine."""
        words = [self.address, "--nthreads", "2", "--no-dashboard", "--local-directory", str(self.folder)]
        with Client(self.address, set_as_default=False) as client:
            before = len(client.nthreads())
            path = self.folder / f"preload{before}.py"
            path.write_text(preload)
            words += ["--preload", str(path), *([] if nanny else ["--no-nanny"])]
            with dask_program("worker", *words, log=self.folder / "workers.log", **environment):
                wait_until(lambda: len(client.nthreads()) > before)
                yield
            wait_until(lambda: len(client.nthreads()) == before)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    with dask_scheduler(folder, DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES="1") as (address, _):
        yield Place(folder, address)


def built(place: Place, folder: Path, manifest: Path | None = None):
    """Build on that cluster; gives the summary and the lines that were said."""
    said: list[str] = []
    options = BuildOptions(phase="smooth", cluster=place.address, insecure=True)
    manifest = manifest or write_volumes(folder, 3, 2, 16)
    summary = build(read_manifest(manifest), str(folder / "c.zarr"), options, say=said.append, progress=False)
    return summary, said


def refusal(place: Place, folder: Path) -> str:
    with pytest.raises(RequestError) as caught:
        built(place, folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_workers_devices_are_listed_and_logged(place, tmp_path):
    with place.worker(), place.worker():
        summary, said = built(place, tmp_path)
    assert summary.exit_status == 0
    (line,) = [one for one in said if one.startswith("workers")]
    (start, *_) = read_run(str(tmp_path / "c.zarr"), run_names(str(tmp_path / "c.zarr"))[-1])
    ((name, count),) = start["devices"].items()
    assert count == 2 and line == f"workers: 2 x {name}"
    assert not [one for one in said if "versions differ" in one]


def test_workers_without_this_package_are_distinguished(place, tmp_path):
    with place.worker(NO_PACKAGE):
        text = refusal(place, tmp_path)
    assert "workers cannot run this program" in text and "No module named 'rephase'" in text


@pytest.mark.parametrize(
    ("preload", "match"),
    [
        (OTHER_ALGORITHM, "has algorithm version 99, this program"),
        (OTHER_VERSION.format(name="rephase"), "install the same version everywhere"),
    ],
)
def test_workers_with_another_version_of_this_package_are_refused(place, tmp_path, preload, match):
    with place.worker(preload):
        assert match in refusal(place, tmp_path)


def test_other_versions_of_packages_are_reported_in_one_line(place, tmp_path, recwarn):
    changes = OTHER_VERSION.format(name="zarr") + "import dask\ndask.__version__ = '2020.1.0'\n"
    with place.worker(changes):
        recwarn.clear()
        summary, said = built(place, tmp_path)
    assert summary.exit_status == 0
    (line,) = [one for one in said if "versions differ" in one]
    assert "zarr: " in line and "0.0.1" in line
    assert [one for one in recwarn if "Mismatched" in str(one.message)] == []


def test_workers_of_two_environment_classes_are_refused(place, tmp_path):
    with place.worker(), place.worker(OTHER_TORCH):
        text = refusal(place, tmp_path)
    assert "the workers are of 2 kinds" in text and "0.0.1" in text and "--allow-mixed-devices" in text


@pytest.mark.reliability  # what the same volume does to workers of ours is always tested
def test_where_the_scheduler_allows_more_deaths_a_volume_that_kills_its_workers_is_given_up_too(place, tmp_path):
    for name in ("crashes", "v"):
        np.save(tmp_path / f"{name}.npy", make_magnitude(2, 16, len(name)))
    manifest = tmp_path / "m.csv"
    manifest.write_text("volume_id,path\ncrashes,crashes.npy\nv0,v.npy\nv1,v.npy\n")
    log = tmp_path / "log"
    preload = str(PROJECT / "tests" / "faulty_reader.py")
    environment = {"DASK_DISTRIBUTED__WORKER__PRELOAD": preload, "FAULTY_READER_LOG": str(log)}
    with place.worker(nanny=True, **environment):
        summary, _ = built(place, tmp_path, manifest)
    assert (summary.built, summary.exit_status) == (2, 1)
    (failure,) = summary.failed.values()
    assert failure.reason == "worker_lost" and "its worker died twice" in (failure.message)
    assert 3 <= len(log.read_text().splitlines()) <= 4  # two of this scheduler's strikes each, beside others and alone
