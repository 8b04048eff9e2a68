"""Figures of the code: sizes, imports, start-up times, the wheel; beside those of an earlier revision.

`python -m tests.benchmarks.figures --against REVISION`
"""

from __future__ import annotations

import argparse
import ast
import os
import resource
import subprocess
import sys
import tempfile
import tokenize
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles

PROJECT = Path(__file__).parents[2]
sys.path.insert(0, str(PROJECT / "tests"))

import test_imports  # noqa: E402 - of the folder just added
from test_wheel import build_wheel  # noqa: E402

from rephase.bench.measure import Table, Value  # noqa: E402

CORPUS = PROJECT / "tests" / "corpora" / "format-1" / "smooth.zarr"
KINDS = ("code", "docstrings", "comment lines", "blank")


@dataclass
class Figures:
    """The figures of one tree."""

    lines: Counter[str] = field(default_factory=Counter)
    by_wing: Counter[str] = field(default_factory=Counter)
    lengths: list[int] = field(default_factory=list)
    test_code: int = 0
    upward: int | None = None
    circles: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    wheel_mb: float = 0.0

    def rows(self) -> list[tuple[str, Value]]:
        """Return name and value of every figure."""
        return [
            ("modules", len(self.lengths)),
            ("lines", sum(self.lines.values())),
            *((f"  {kind}", self.lines[kind]) for kind in KINDS),
            ("lines of a module, median", median(self.lengths)),
            ("  90 % have at most", round(quantiles(self.lengths, n=10)[-1])),
            ("  largest", max(self.lengths)),
            ("lines of code in tests", self.test_code),
            ("imports that run up", self.upward),
            ("import circles", self.circles),
            *((f"{what} (CPU s)", round(seconds, 2)) for what, seconds in self.seconds.items()),
            ("wheel (MB)", round(self.wheel_mb, 1)),
        ]


def main() -> None:
    """Print the figures of the working tree, beside those of `--against`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", metavar="REVISION", help="of git")
    revision = parser.parse_args().against
    now = measure(PROJECT)
    before = None
    if revision is not None:
        with tempfile.TemporaryDirectory() as folder:
            archive = subprocess.run(["git", "archive", revision], cwd=PROJECT, capture_output=True, check=True)
            subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
            before = measure(Path(folder))
    titles = ("figure", *([revision] if before else []), "now")
    rows = [
        (name, *([earlier] if before else []), value)
        for (name, value), (_, earlier) in zip(now.rows(), (before or now).rows(), strict=True)
    ]
    names = sorted({*now.by_wing, *(before.by_wing if before else ())})
    wings = [(name, *([before.by_wing[name]] if before else []), now.by_wing[name]) for name in names]
    lines = [*Table("The product", titles, rows).lines(), ""]
    lines += Table("Lines of code by folder and wing", ("wing", *titles[1:]), wings).lines()
    sys.stdout.write("\n".join(lines) + "\n")


def measure(tree: Path) -> Figures:
    """Measure a tree; `rephase` is mapped to its folders, or, in an earlier tree, each folder is a package."""
    found = Figures()
    mapped = "rephase" in (tree / "pyproject.toml").read_text(encoding="utf-8")
    sources: dict[str, str] = {}
    for folder in test_imports.FOLDERS:
        for path in sorted((tree / folder).rglob("*.py")):
            place = path.relative_to(tree / folder)
            parts = (*(("rephase",) if mapped else ()), *(() if mapped and folder == "augment" else (folder,)))
            name = ".".join((*parts, *(part for part in place.with_suffix("").parts if part != "__init__")))
            sources[name] = path.read_text(encoding="utf-8")
            kinds = count_lines(path)
            found.lines += kinds
            found.lengths.append(sum(kinds.values()))
            found.by_wing["/".join((folder, *place.parts[:-1][:1])) + "/"] += kinds["code"]
    found.test_code = sum(count_lines(path)["code"] for path in (tree / "tests").rglob("*.py"))
    test_imports.MODULES = sources
    test_imports.imports.cache_clear()
    found.circles = len(test_imports.circles())
    if mapped:
        found.upward = len(test_imports.arrows_that_run_up())
    package, module = ("rephase", "rephase") if mapped else ("augment", "augment.cli")
    commands = {
        "import rephase": ["-c", f"import {package}"],
        "rephase --help": ["-m", module, "--help"],
        "rephase status": ["-m", module, "status", str(CORPUS)],
    }
    if mapped:
        subprocess.run(["make", "--silent", "links"], cwd=tree, check=True)
    environment = {**os.environ, "PYTHONPATH": str(tree / ".links" if mapped else tree)}
    found.seconds = {what: cpu_seconds(words, environment) for what, words in commands.items()}
    with tempfile.TemporaryDirectory() as folder:
        found.wheel_mb = build_wheel(tree, Path(folder)).stat().st_size / 1e6
    return found


def count_lines(path: Path) -> Counter[str]:
    """Count the lines of a module by kind; every string that is a statement counts as a docstring."""
    tree = ast.parse(path.read_bytes())
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)]
    texts = [node for node in texts if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    docstrings = {line for node in texts for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)}
    with path.open("rb") as file:
        comments = {one.start[0] for one in tokenize.tokenize(file.readline) if one.type == tokenize.COMMENT}
    counts: Counter[str] = Counter()
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if number in docstrings:
            counts["docstrings"] += 1
        elif not line.strip():
            counts["blank"] += 1
        elif number in comments and line.lstrip().startswith("#"):
            counts["comment lines"] += 1
        else:
            counts["code"] += 1
    return counts


def cpu_seconds(words: list[str], environment: dict[str, str], runs: int = 3) -> float:
    """Return the minimum CPU time of some runs of Python, after one for warm-up."""
    times = []
    for _ in range(runs + 1):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *words], env=environment, cwd="/", stdout=subprocess.DEVNULL, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    return min(times[1:])


if __name__ == "__main__":
    main()
