"""The wheel: it installs one package, `rephase`, and holds its own beside distributions with colliding names.

PyPI has distributions whose top-level packages are called `cluster`, `diffusion` and `manifests`, as folders of this
repository are. The environment is fresh but for the dependencies, which it borrows from the environment of the tests.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from paths import PROJECT

from rephase.data.kspace_slices import KSpaceSlices

STRANGERS = ("cluster", "diffusion", "manifests")
MOST_BYTES = 15_000_000


@dataclass(frozen=True)
class Environment:
    """A virtual environment, and a folder outside the repository to run its commands in."""

    folder: Path
    strangers: bool

    def run(self, *words: str) -> str:
        """Run a program of the environment; returns what it printed."""
        clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        command = [str(self.folder / "bin" / words[0]), *words[1:]]
        done = subprocess.run(command, cwd=self.folder, env=clean, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr, done.stderr
        return done.stdout + done.stderr


def pip(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def build_wheel(tree: Path, folder: Path) -> Path:
    """Build the wheel from a copy of a tree: a build leaves its traces in the tree that it is made from."""
    for name in ("augment", "cluster", "diffusion", "manifests"):
        shutil.copytree(tree / name, folder / "tree" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(tree / name, folder / "tree")
    built = pip("wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(folder / "tree"))
    assert built.returncode == 0, built.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    return build_wheel(PROJECT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory) -> Environment:
    """The wheel beside the strangers, where the package index is reachable; else alone."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    # a path in a .pth file adds a folder, and none of the .pth files in it: not the editable install of the tests
    dependencies = sysconfig.get_path("purelib")
    places = sysconfig.get_paths(vars={"base": str(folder), "platbase": str(folder)})
    (Path(places["purelib"]) / "dependencies.pth").write_text(f"{dependencies}\n", encoding="utf-8")
    into = ("--python", str(folder / "bin" / "python"), "install", "--no-deps")
    installed = pip(*into, "--no-index", str(wheel))
    assert installed.returncode == 0, installed.stderr
    strangers = pip(*into, "--retries", "1", *STRANGERS).returncode == 0
    return Environment(folder, strangers)


def test_the_wheel_holds_one_package(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    top = {name.split("/")[0] for name in names}
    assert top == {"rephase", *(name for name in top if name.endswith(".dist-info"))} and len(top) == 2
    assert {"rephase/__init__.py", "rephase/diffusion/weights/permissive.safetensors", "rephase/py.typed"} <= set(names)


def test_the_wheel_is_small(wheel):
    assert wheel.stat().st_size <= MOST_BYTES


def test_the_licence_of_the_wheel_covers_code_and_weights(wheel):
    with zipfile.ZipFile(wheel) as archive:
        metadata = next(archive.read(name).decode() for name in archive.namelist() if name.endswith("/METADATA"))
        names = [name for name in archive.namelist() if "/diffusion/weights/" in name and name.endswith(".json")]
        weights = {json.loads(archive.read(name)).get("licence", "Apache-2.0") for name in names}
    (expression,) = re.findall("^License-Expression: (.*)$", metadata, re.MULTILINE)
    parts = {part.removesuffix("-only") for part in expression.split(" AND ")}
    assert parts == {"Apache-2.0", *weights, "BSD-3-Clause"}  # the head coils


@pytest.mark.slow
def test_the_demo_runs_outside_the_repository(environment):
    """A user's own modules of these names do no harm either."""
    for name in STRANGERS:
        (environment.folder / f"{name}.py").write_text("raise ImportError('not this one')\n", encoding="utf-8")
    said = environment.run("rephase", "demo", "demo", "--workers", "1")
    assert "dashboard: http://127.0.0.1" in said
    assert len(KSpaceSlices(environment.folder / "demo" / "corpus.zarr")) == 54
    page = (environment.folder / "demo" / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png") >= 6 and str(environment.folder) not in page


@pytest.mark.reliability
def test_strangers_come_and_go_without_harm(environment):
    if not environment.strangers:
        pytest.skip("the package index is not reachable")
    code = "import rephase.cluster.connect, rephase.diffusion.registry, rephase.manifests.parse as m; print(m.__file__)"
    assert str(environment.folder) in environment.run("python", "-c", code)
    gone = pip("--python", str(environment.folder / "bin" / "python"), "uninstall", "--yes", *STRANGERS)
    assert gone.returncode == 0, gone.stderr
    assert str(environment.folder) in environment.run("python", "-c", code)
    assert environment.run("python", "-m", "rephase", "--version").startswith("rephase ")
