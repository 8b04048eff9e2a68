"""Change the code in one place at a time and run the tests: `python -m tests.mutants`. Exit status 1 below 90 %.

mutmut makes the changes, those of `[tool.mutmut]` in pyproject.toml, in a copy of package and tests under `runs/`,
and runs the tests that reach the changed function. `--sample` tries a seeded part of them. Prints a table, and the
survivors as differences; `-o` writes the table into a document.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from ..reliability.table import machine, replace_part

PROJECT = Path(__file__).parents[2]
LEAST_KILLED = 0.9
_KILLED = {1: "killed", 3: "killed", 36: "timeout", -24: "timeout", 24: "timeout", 152: "timeout", 255: "timeout"}
"""Exit statuses of mutmut's runs; a change that makes a test hang was noticed."""
_NO_TESTS = (5, 33)


def main(arguments: list[str] | None = None) -> int:
    """Run the mutants, print the results, and write the table into `--output`."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--sample", type=int, metavar="N", help="try N mutants instead of all")
    parser.add_argument("--seed", type=int, default=1, help="of the sample (default: 1)")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), metavar="N")
    parser.add_argument("-o", "--output", type=Path, metavar="MD", help="document that receives the table")
    parser.add_argument("--folder", type=Path, default=PROJECT / "runs/mutants", help="where the copy is made")
    options = parser.parse_args(arguments)
    start = time.monotonic()
    folder: Path = options.folder.absolute()
    copy_project(folder)
    if options.sample:
        run_mutmut(folder, options.processes, ["nothing"])  # makes all mutants, finds their tests, and tries none
        names = sorted(read_results(folder))
        names = random.Random(options.seed).sample(names, min(options.sample, len(names)))  # noqa: S311
        run_mutmut(folder, options.processes, names)
    else:
        run_mutmut(folder, options.processes, [])
        names = sorted(read_results(folder))
    results = read_results(folder)
    tried = {name: results[name] for name in names if results[name] is not None}
    if not tried:
        sys.stdout.write(f"no mutant was tried; {folder / 'mutmut.log'} says why, with debug = true in [tool.mutmut]\n")
        return 1
    minutes = (time.monotonic() - start) / 60
    part = (
        f"{len(tried)} of {len(results)} mutants, chosen with seed {options.seed}" if options.sample else "All mutants"
    )
    text = f"{render(tried)}\n{part}; {minutes:.0f} minutes on {machine()}, {options.processes} at a time.\n"
    for name in sorted(name for name, status in tried.items() if status not in _KILLED):
        sys.stdout.write(
            f"\n{name} ({'no tests' if tried[name] in _NO_TESTS else tried[name]})\n{difference(folder, name)}"
        )
    sys.stdout.write(f"\n{text}")
    if options.output is not None:
        document = options.output.read_text(encoding="utf-8")
        options.output.write_text(replace_part(document, "make mutants", text), encoding="utf-8")
    killed = sum(status in _KILLED for status in tried.values())
    return int(killed < LEAST_KILLED * len(tried))


def copy_project(folder: Path) -> None:
    """Copy the package, as one tree without links, and the tests."""
    shutil.rmtree(folder, ignore_errors=True)
    skipped = shutil.ignore_patterns("__pycache__", "weights.bak")
    shutil.copytree(PROJECT / "augment", folder / "rephase", ignore=skipped)
    for name in ("diffusion", "cluster", "manifests"):
        shutil.copytree(PROJECT / name, folder / "rephase" / name, ignore=skipped)
    shutil.copytree(PROJECT / "tests", folder / "tests", ignore=skipped)
    shutil.copy(PROJECT / "pyproject.toml", folder)


def run_mutmut(folder: Path, processes: int, names: list[str]) -> None:
    """Run mutmut in the copy; it keeps what it found there."""
    environment = {**os.environ, "PYTHONPATH": str(folder / "mutants"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "mutmut", "run", "--max-children", str(processes), *names]
    with (folder / "mutmut.log").open("ab") as log:
        subprocess.run(command, cwd=folder, env=environment, stdout=log, stderr=log, check=False)


def read_results(folder: Path) -> dict[str, int | None]:
    """Return the exit status of the tests for each mutant; None if it was not tried."""
    found: dict[str, int | None] = {}
    for path in sorted((folder / "mutants").rglob("*.meta")):
        found |= json.loads(path.read_text(encoding="utf-8"))["exit_code_by_key"]
    return found


def difference(folder: Path, name: str) -> str:
    """Return the changed lines of a mutant."""
    done = subprocess.run(
        [sys.executable, "-m", "mutmut", "show", name], cwd=folder, capture_output=True, text=True, check=False
    )
    lines = [line for line in done.stdout.splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")]
    return "".join(f"    {line}\n" for line in lines)


def module_of(name: str) -> str:
    """Return the module of a mutant, `rephase.corpus.store.x_f__mutmut_1`, without the package."""
    return ".".join(part for part in name.split(".")[1:-1])


def render(tried: dict[str, int | None]) -> str:
    """Format the counts of every module as a table."""
    counts: dict[str, Counter[str]] = {}
    for name, status in tried.items():
        word = "no tests" if status in _NO_TESTS else _KILLED.get(status or 0, "survived")
        counts.setdefault(module_of(name), Counter())[word] += 1
    counts["**all**"] = sum(counts.values(), Counter())
    lines = [
        "| module | mutants | noticed | survived | not reached by tests | noticed, % |",
        "|---|---|---|---|---|---|",
    ]
    for module, found in counts.items():
        noticed, total = found["killed"] + found["timeout"], found.total()
        cells = (module, total, noticed, found["survived"], found["no tests"], f"{100 * noticed / total:.0f}")
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.exit(main())
