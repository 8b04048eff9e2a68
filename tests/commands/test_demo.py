import csv
import subprocess
import sys

import pytest

from rephase.commands.demo import run_demo, write_demo_manifest
from rephase.data.kspace_slices import KSpaceSlices


def test_manifest_names_files_that_are_there(tmp_path):
    write_demo_manifest(tmp_path / "manifest.csv")
    with (tmp_path / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len({row["volume_id"] for row in rows}) == len(rows) > 4


def test_a_failing_step_ends_the_demo_with_its_status(tmp_path, capsys):
    steps = []

    def command(words):
        steps.append(words[0])
        return 1 if words[0] == "verify" else 0

    assert run_demo(tmp_path, command) == 1
    assert steps == ["build", "verify"]
    assert "$ rephase build" in capsys.readouterr().out


@pytest.mark.slow
def test_the_demo_ends_with_a_corpus_pictures_and_a_batch(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "rephase.cli", "demo", str(tmp_path / "demo")],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no faults" in done.stdout and "dashboard: http://127.0.0.1" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    dataset = KSpaceSlices(tmp_path / "demo" / "corpus.zarr")
    assert len(dataset) == 54
    page = (tmp_path / "demo" / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png") >= 6 and str(tmp_path) not in page
