"""The demo's parts; the whole of it runs from the wheel, in `tests/test_wheel.py`."""

import csv

from rephase.commands.demo import run_demo, write_demo_manifest


def test_manifest_names_files_that_exist(tmp_path):
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
