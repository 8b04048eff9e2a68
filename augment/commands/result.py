"""The result of a command, and the argument parsers and progress bar shared by commands."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from rephase.text import parse_count, parse_names, parse_size

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # argparse has no public name for it
_Value = TypeVar("_Value")


@dataclass(frozen=True)
class CommandResult:
    """The exit status of a command, its lines of text, and its data for `--json`."""

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
    """Indent every line by two spaces."""
    return "\n".join(f"  {line}" for line in text.strip().splitlines())


def argument(parse: Callable[[str], _Value]) -> Callable[[str], _Value]:
    """Wrap a parser for argparse, which only shows the messages of its own error class."""

    def parse_argument(text: str) -> _Value:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse_argument


count, size, names = argument(parse_count), argument(parse_size), argument(parse_names)


def whole(text: str) -> int:
    """Parse an integer of 0 or more, for argparse."""
    return 0 if text == "0" else count(text)


def counts(text: str) -> tuple[int, ...]:
    """Parse comma-separated integers of 1 or more, for argparse."""
    return tuple(count(part.strip()) for part in text.split(","))


class PrintSchema(argparse.Action):
    """Print the JSON schema of a configuration and exit; `const` is `module:class`."""

    def __init__(self, option_strings: Sequence[str], dest: str, const: str) -> None:
        super().__init__(
            option_strings,
            argparse.SUPPRESS,
            nargs=0,
            const=const,
            default=argparse.SUPPRESS,
            help="print the JSON schema of the configuration",
        )

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        """Print it."""
        import json
        from importlib import import_module

        from rephase.config import schema

        module, _, kind = self.const.partition(":")
        sys.stdout.write(json.dumps(schema(getattr(import_module(module), kind)), indent=2) + "\n")
        parser.exit()


@contextmanager
def progress_bar(label: str, unit: str = "volume") -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar on standard error; yield its `progress(done, total)`."""
    from tqdm import tqdm

    with tqdm(desc=label, unit=unit, disable=not sys.stderr.isatty()) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield progress
