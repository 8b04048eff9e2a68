"""The folder in which a command is started may hold anything; nothing in it is imported, by no process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rephase import startup
from rephase.bench.phantom import write_volumes

# of the standard library and of others, imported by the command, by multiprocessing's helpers and by the workers
NAMES = ("argparse", "distributed", "json", "logging", "multiprocessing", "numpy", "socket", "torch", "typing", "zarr")
LATER = ("multiprocessing", "distributed", "numpy", "socket")
"""Modules that Python itself does not import at its start, before this package has a say."""

SCRIPT = "import sys; from rephase.cli import main; sys.exit(main())"
NOTEBOOK = """
import os, sys, rephase, rephase.builder.run, multiprocessing.forkserver
for name in ("multiprocessing", "distributed", "numpy", "socket"):
    open(name + ".py", "w").write("open('RAN-' + __name__, 'w').close(); raise ImportError('mine')")
summary = rephase.build(sys.argv[1], sys.argv[2], phase="smooth", workers=1, progress=False)
assert summary.built == 1 and "PYTHONSAFEPATH" not in os.environ, summary
"""


def build(folder: Path, *words: object, names=NAMES, path: str = "{}"):
    """Run a build of one volume in a folder with modules of these names; how it ended, and which of them were run."""
    manifest = write_volumes(folder / "source", 1, 2, 16)
    place = folder / "downloads"
    place.mkdir()
    for name in names:
        (place / f"{name}.py").write_text(f"open('RAN-{name}', 'w').close()\nraise ImportError('mine')\n")
    package = os.environ.get("PYTHONPATH") or str(folder)  # a folder without modules where the package is installed
    environment = {**os.environ, "PYTHONPATH": path.format(package)}
    environment.pop("PYTHONSAFEPATH", None)  # a cluster of another test has set it for its own helpers
    command = [*map(str, words), manifest, folder / "c.zarr"]
    if "build" in words:
        command += ["--phase", "smooth", "--workers", "1"]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=300, check=False)
    return done, sorted(path.name for path in place.glob("RAN-*"))


def test_a_module_of_the_working_folder_is_not_run_by_python_m(tmp_path):
    done, ran = build(tmp_path, sys.executable, "-m", "rephase", "build")
    assert (done.returncode, ran) == (0, []), done.stderr


@pytest.mark.reliability
def test_nor_by_the_script_with_an_empty_entry_in_pythonpath(tmp_path):
    script = tmp_path / "rephase"
    script.write_text(SCRIPT)
    done, ran = build(tmp_path, sys.executable, script, "build", names=LATER, path=":{}:.:")
    assert (done.returncode, ran) == (0, []), done.stderr


@pytest.mark.reliability
def test_nor_by_the_workers_of_an_interactive_program(tmp_path):
    done, ran = build(tmp_path, sys.executable, "-c", NOTEBOOK, names=())
    assert (done.returncode, ran) == (0, []), done.stderr


@pytest.mark.parametrize(
    ("given", "words", "expected"),
    [
        (["python", "-m", "rephase", "build", "x"], ["-m", "build", "x"], True),
        (["python", "-W", "error", "-mrephase"], ["-m"], True),
        (["python", "-m", "rephase.examples.train_unet", "c"], ["-m", "c"], True),
        (["python", "-m", "rephaser"], ["-m"], False),
        (["python", "-m", "pytest", "rephase"], ["-m", "rephase"], False),
        (["python", "/opt/bin/rephase", "demo"], ["/opt/bin/rephase", "demo"], True),
        (["python", "train.py"], ["train.py"], False),
        (["python"], [""], False),
    ],
)
def test_the_command_is_known_by_how_it_was_started(monkeypatch, given, words, expected):
    """A program of the user's keeps its import path."""
    monkeypatch.setattr(sys, "orig_argv", given)
    monkeypatch.setattr(sys, "argv", words)
    assert startup.is_command() is expected


def test_a_folder_that_was_asked_for_stays(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for path, kept in ((str(tmp_path), True), (f"{tmp_path}{os.pathsep}", True), (os.pathsep, False), (".", False)):
        monkeypatch.setenv("PYTHONPATH", path)
        monkeypatch.setenv("PYTHONSAFEPATH", "")
        monkeypatch.setattr(sys, "path", [str(tmp_path), "", "/elsewhere"])
        startup.leave_working_folder()
        assert sys.path == ([str(tmp_path), "/elsewhere"] if kept else ["/elsewhere"])
        assert os.environ["PYTHONSAFEPATH"] == "1" and "" not in os.environ["PYTHONPATH"].split(os.pathsep)[1:]
