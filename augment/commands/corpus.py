"""`phasegen verify` and `report`: what looks at a corpus that is there."""

from __future__ import annotations

import argparse
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from augment.commands.answer import Answer, Commands, add_command, add_json, count, counting

_SHOWN = 50


def register(commands: Commands) -> None:
    """Add the commands."""
    check = add_command(
        commands,
        "verify",
        verify_corpus,
        "check every byte of a corpus",
        "Read everything in a corpus and check it: every checksum, every receipt, the index, no NaN and no negative\n"
        "zero, and that every slice's k-space gives its magnitude back.\n\n"
        "Exit status: 0 nothing is wrong; 1 faults were found and listed; 2 there is no corpus to look at.",
        "phasegen verify brain.zarr\nphasegen verify brain.zarr --workers 8 --json",
    )
    check.add_argument("corpus", metavar="CORPUS", help="path or URL of the corpus")
    check.add_argument("--workers", type=count, metavar="N", help="threads (default: one per core)")
    add_json(check)
    report = add_command(
        commands,
        "report",
        report_corpus,
        "write one HTML page about a corpus",
        "Write one HTML file, without any outside resource: what was built, from what, how fast, what failed and why,\n"
        "and pictures of some volumes.",
        "phasegen report brain.zarr\nphasegen report brain.zarr -o brain.html --volumes 20",
    )
    report.add_argument("corpus", metavar="CORPUS", help="path or URL of the corpus")
    report.add_argument("-o", "--output", type=Path, metavar="FILE", help="(default: CORPUS.run/report.html)")
    report.add_argument("--volumes", type=count, default=8, metavar="N", help="volumes with pictures (default: 8)")
    add_json(report)


def verify_corpus(arguments: argparse.Namespace) -> Answer:
    """Run `phasegen verify`."""
    from augment import verify
    from augment.summary import format_bytes

    with _counting("verifying") as progress:
        result = verify.verify_corpus(arguments.corpus, arguments.workers, progress)
    checked = f"{result.num_volumes} volumes, {result.num_slices} slices, {format_bytes(result.num_bytes)} read"
    lines = [f"{name or 'corpus'}: {what}" for name, what in result.faults[:_SHOWN]]
    if len(result.faults) > _SHOWN:
        lines.append(f"and {len(result.faults) - _SHOWN} more faults, all of them with --json")
    if result.unfinished:
        lines.append(f"{len(result.unfinished)} volumes were begun and not committed; the next build makes them again")
    if result.other_recipe:
        lines.append(
            f"{len(result.other_recipe)} volumes were made by another recipe than the corpus names, such as "
            f"{result.other_recipe[0]}; 'phasegen build --overwrite' with all rows makes them alike"
        )
    lines.append(f"{arguments.corpus}: {checked}: {len(result.faults) or 'no'} faults")
    return Answer(0 if result.ok else 1, lines, {**asdict(result), "ok": result.ok})


def report_corpus(arguments: argparse.Namespace) -> Answer:
    """Run `phasegen report`."""
    from augment.report import write_report

    with _counting("reading") as progress:
        path = write_report(arguments.corpus, arguments.output, num_volumes=arguments.volumes, progress=progress)
    return Answer(0, [f"report: {path}"], {"report": str(path)})


_counting = contextmanager(counting)
