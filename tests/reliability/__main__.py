"""All cases of all faults: `python -m tests.reliability`. Exit status 1 if a case failed.

Runs every test that records a `fault`, also those that pytest deselects by default, then the fuzzing harness, and
prints the table of augment/RELIABILITY.md; `-o` writes it into a document.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from .table import Row, machine, read_rows, render, replace_part

PROJECT = Path(__file__).parents[2]
PROCESSES = min(os.cpu_count() or 1, 2)


def main(arguments: list[str] | None = None) -> int:
    """Run everything, print the table, and write it into `--output`."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability", description=__doc__)
    parser.add_argument("-k", metavar="WORDS", help="only tests that match, as pytest's -k")
    parser.add_argument("--fuzz-cases", type=int, default=10_000, metavar="N", help="0: none (default: 10000)")
    parser.add_argument("--seed", type=int, default=1, help="of the fuzzing (default: 1)")
    parser.add_argument("--junit", type=Path, metavar="XML", help="use these results instead of running the tests")
    parser.add_argument("--fuzz", type=Path, metavar="JSON", help="use these counts instead of fuzzing")
    parser.add_argument("-o", "--output", type=Path, metavar="MD", help="document that receives the table")
    options = parser.parse_args(arguments)
    folder = PROJECT / "runs"
    folder.mkdir(exist_ok=True)
    start = time.monotonic()
    rows = read_rows(options.junit or run_tests(folder / "reliability.xml", options.k))
    fuzz = options.fuzz
    if fuzz is None and options.fuzz_cases:
        fuzz = run_fuzz(folder / "fuzz.json", options.fuzz_cases, options.seed)
    if fuzz is not None:
        rows.append(fuzz_row(fuzz))
    text = render(rows, f"{machine()}, in {(time.monotonic() - start) / 60:.0f} minutes")
    sys.stdout.write(text)
    if options.output is not None:
        options.output.write_text(
            replace_part(options.output.read_text(encoding="utf-8"), "make reliability", text), encoding="utf-8"
        )
    return int(any(row.failed for row in rows) or not rows)


def run_tests(junit: Path, words: str | None) -> Path:
    """Run all cases of the modules that record a fault."""
    modules = [str(path) for path in sorted((PROJECT / "tests").rglob("test_*.py")) if records_fault(path)]
    spread = ["-n", str(PROCESSES), "--dist", "loadfile", "--no-loadscope-reorder"]  # as `make test` does
    command = [sys.executable, "-m", "pytest", "-m", "", "-q", *spread, f"--junitxml={junit}", *modules]
    subprocess.run([*command, *(["-k", words] if words else [])], cwd=PROJECT, check=False)
    return junit


def records_fault(module: Path) -> bool:
    """Return whether a module has tests of the table."""
    return 'record_property("fault"' in module.read_text(encoding="utf-8")


def run_fuzz(output: Path, cases: int, seed: int) -> Path:
    """Run the fuzzing harness."""
    words = ["--cases", str(cases), "--seed", str(seed), "--workers", str(PROCESSES), "-o", str(output)]
    subprocess.run([sys.executable, "-m", "tests.fuzz", *words], cwd=PROJECT, check=False)
    return output


def fuzz_row(counts: Path) -> Row:
    """Return the row of the harness's counts."""
    report = json.loads(counts.read_text(encoding="utf-8"))
    failed = len(report["faults"])
    return Row("hostile input: fuzzing, the long run", report["cases"] - failed, failed, 0)


if __name__ == "__main__":
    sys.exit(main())
