"""`phasegen demo`."""

from __future__ import annotations

import argparse
from pathlib import Path

from augment.commands.answer import Answer, Commands, add_command, count


def register(commands: Commands) -> None:
    """Add the command."""
    demo = add_command(
        commands,
        "demo",
        show_demo,
        "the whole way on real volumes, in about a minute",
        "Build a small corpus of real MR volumes that the nibabel and pydicom packages bring along, verify it,\n"
        "write its report and draw a training batch from it.",
        "phasegen demo\nphasegen demo /tmp/demo --workers 4",
    )
    demo.add_argument(
        "folder", type=Path, nargs="?", default=Path("demo"), metavar="FOLDER", help="where it goes (default: demo)"
    )
    demo.add_argument("--workers", type=count, default=2, metavar="N", help="worker processes (default: 2)")


def show_demo(arguments: argparse.Namespace) -> Answer:
    """Run `phasegen demo`."""
    from augment.cli import main
    from augment.demo import run_demo

    return Answer(run_demo(arguments.folder, main, arguments.workers))
