"""The printer of the table of faults, on results of a real pytest run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from reliability.table import END, Row, read_rows, render, replace_part

CASES = """
import pytest

@pytest.mark.parametrize("number", range(4))
def test_cases(number, record_property):
    record_property("fault", "first" if number < 3 else "second")
    if number == 2:
        pytest.skip("not here")
    assert number != 1

def test_of_no_fault():
    assert False

@pytest.fixture
def broken():
    raise RuntimeError

def test_with_an_error(record_property):
    record_property("fault", "second")
    raise OSError
"""


def test_cases_are_counted_by_fault(tmp_path):
    (tmp_path / "test_some.py").write_text(CASES)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--junitxml=out.xml", "test_some.py"]
    subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    rows = read_rows(tmp_path / "out.xml")
    assert rows == [Row("first", 1, 1, 1), Row("second", 1, 1, 0)]
    table = render(rows, "a machine")
    assert "| first | 3 | 1 | 1 | 1 |" in table and "| **all** | 5 | 2 | 2 | 1 |" in table


def test_a_table_takes_its_place_in_the_document():
    document = f"before\n<!-- begin: a -->\nold\n{END}<!-- begin: b -->\nkept\n{END}after\n"
    assert replace_part(document, "a", "new\n") == document.replace("old", "new")
    with pytest.raises(ValueError, match="lacks the marks"):
        replace_part("nothing", "a", "new\n")


def test_the_document_has_the_marks():
    text = (Path(__file__).parents[1] / "augment" / "RELIABILITY.md").read_text(encoding="utf-8")
    for name in ("make reliability", "make mutants"):
        assert replace_part(text, name, "new\n").count(f"<!-- begin: {name} -->\nnew\n{END}") == 1
