"""Build the documentation site from the documents beside the code: `make docs`; warnings are errors."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import rephase
from rephase.cli import make_parser

PROJECT = Path(__file__).parents[2]
DOCS = PROJECT / "build" / "docs"
PACKAGE = PROJECT / "build" / "package"
"""The package as one tree of links, for the reader of docstrings, as `make links` makes it."""
_KINDS = {".md", ".py", ".toml", ".csv", ".json", ".png", ".cff", ".yml", ".BSD-3"}
_FOLDERS = ("augment", "cluster", "diffusion", "manifests", "tests")
_MOST_BYTES = 2**21


def documents() -> Iterator[Path]:
    """Yield the documents, and the files to which they may link, relative to the project."""
    found = [path for path in PROJECT.iterdir() if path.is_file()]
    for folder in _FOLDERS:
        found += [path for path in (PROJECT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    for path in sorted(found):
        if (path.suffix in _KINDS or path.name in ("LICENSE", "Makefile")) and path.stat().st_size < _MOST_BYTES:
            yield path.relative_to(PROJECT)


def reference() -> str:
    """Return the page of the public names."""
    lines = [
        "# Python interface",
        "",
        "`import rephase` loads neither torch nor Dask; each name loads what it needs.",
        "",
    ]
    for module, names in sorted(rephase._MODULES.items()):
        for name in names:
            lines += [f"::: {module}.{name}", ""]
    for module in ("metrics", "transforms"):
        lines += [f"::: rephase.{module}", ""]
    return "\n".join(lines)


def commands() -> str:
    """Return the page of the command line: the help of every command."""
    lines = ["# Command line", ""]

    def add(words: list[str], parser: argparse.ArgumentParser, level: int) -> None:
        text = parser.format_help().replace("```", "")
        lines.extend([f"{'#' * level} {' '.join(words)}", "", "```", text.rstrip(), "```", ""])
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for name, child in action.choices.items():
                    add([*words, name], child, min(level + 1, 4))

    add(["rephase"], make_parser(), 2)
    return "\n".join(lines)


def main() -> int:
    """Collect the documents and build the site."""
    shutil.rmtree(DOCS, ignore_errors=True)
    for path in documents():
        (DOCS / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(PROJECT / path, DOCS / path)
    shutil.rmtree(PACKAGE, ignore_errors=True)
    (PACKAGE / "rephase").mkdir(parents=True)
    for path in [*(PROJECT / "augment").iterdir(), *(PROJECT / name for name in ("diffusion", "cluster", "manifests"))]:
        (PACKAGE / "rephase" / path.name).symlink_to(path)
    (DOCS / "reference.md").write_text(reference())
    (DOCS / "commands.md").write_text(commands())
    config = PROJECT / "tests" / "documentation" / "mkdocs.yml"
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-f", str(config)]
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
