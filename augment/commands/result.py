"""What a command gives back, and the pieces that several commands share."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # argparse has no public name for it

_UNITS = {"": 1, "B": 1}
_UNITS |= {letter + rest: 1000**n for n, letter in enumerate("KMGT", 1) for rest in ("", "B")}
_UNITS |= {f"{letter}IB": 1024**n for n, letter in enumerate("KMGT", 1)}


@dataclass(frozen=True)
class CommandResult:
    """The exit status, what is printed for a person, and the same for a program (`--json`)."""

    status: int
    lines: Sequence[str] = field(default=())
    data: Any = None


Handler = Callable[[argparse.Namespace], CommandResult]


def add_command(
    commands: Commands, name: str, handler: Handler, summary: str, description: str, examples: str
) -> argparse.ArgumentParser:
    """Add a sub-command whose `--help` has a description and examples."""
    parser = commands.add_parser(
        name,
        help=summary,
        description=description,
        epilog=f"examples:\n{indent(examples)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(handler=handler)
    return parser


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add `--json`."""
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def indent(text: str) -> str:
    """Indent every line by two."""
    return "\n".join(f"  {line}" for line in text.strip().splitlines())


def count(text: str) -> int:
    """Parse a whole number of 1 or more, for argparse."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}; expected a whole number of 1 or more")
    return int(text)


def whole(text: str) -> int:
    """Parse a whole number of 0 or more, for argparse."""
    return 0 if text == "0" else count(text)


def counts(text: str) -> tuple[int, ...]:
    """Parse whole numbers of 1 or more between commas, for argparse."""
    return tuple(count(part.strip()) for part in text.split(","))


def size(text: str) -> int:
    """Parse bytes with a unit, such as 8GB or 500MiB, for argparse."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-zA-Z]*)", text.strip())
    if match is None or match[2].upper() not in _UNITS or float(match[1]) == 0:
        raise argparse.ArgumentTypeError(f"{text!r}; expected a size such as 8GB or 500MiB")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def names(text: str) -> tuple[str, ...]:
    """Parse names between commas, for argparse."""
    found = tuple(name.strip() for name in text.split(",") if name.strip())
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r}; expected names with commas between them")
    return found


@contextmanager
def progress_bar(label: str) -> Iterator[Callable[[int, int], None]]:
    """Give a `progress(done, total)` that draws a bar on standard error."""
    from tqdm import tqdm

    with tqdm(desc=label, unit="volume", disable=not sys.stderr.isatty()) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield progress
