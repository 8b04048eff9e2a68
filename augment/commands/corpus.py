"""`rephase verify`, `repair` and `report`: what looks after a corpus that is there."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from rephase.commands.build import add_run, add_where, resume_command
from rephase.commands.result import CommandResult, Commands, add_command, add_json, count, progress_bar
from rephase.diffusion.shipped import find_checkpoint


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
        "rephase verify brain.zarr\nrephase verify brain.zarr --workers 8 --json",
    )
    check.add_argument("corpus", metavar="CORPUS", help="path or URL of the corpus")
    check.add_argument("--workers", type=count, metavar="N", help="threads (default: one per core)")
    add_json(check)
    repair = add_command(
        commands,
        "repair",
        repair_corpus,
        "make what is damaged again",
        "Check a corpus as 'verify' does, and mend exactly what is wrong: damaged and lost volumes are made again\n"
        "from the manifest, byte for byte as they were on machines of the same kind; the index and the corpus's own\n"
        "documents are written anew. A volume whose source or row has changed since is left as it is and listed.\n\n"
        "Exit status: 0 nothing is wrong any more; 1 something still is, or with --dry-run would be mended;\n"
        "2 the request was wrong; 130 interrupted.",
        "rephase repair brain.zarr --dry-run\nrephase repair brain.zarr\n"
        "rephase repair brain.zarr --manifest brain.csv --delete-unexpected --workers 4",
    )
    _add_repair_options(repair)
    report = add_command(
        commands,
        "report",
        report_corpus,
        "write one HTML page about a corpus",
        "Write one HTML file, without any outside resource: what was built, from what, how fast, what failed and why,\n"
        "and pictures of some volumes.",
        "rephase report brain.zarr\nrephase report brain.zarr -o brain.html --volumes 20",
    )
    report.add_argument("corpus", metavar="CORPUS", help="path or URL of the corpus")
    report.add_argument("-o", "--output", type=Path, metavar="FILE", help="(default: CORPUS.run/report.html)")
    report.add_argument("--volumes", type=count, default=8, metavar="N", help="volumes with pictures (default: 8)")
    add_json(report)


def _add_repair_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("corpus", metavar="CORPUS", help="path or URL of the corpus")
    parser.add_argument(
        "--manifest", metavar="M.csv", help="with the rows of the volumes (default: the one of the latest run)"
    )
    parser.add_argument(
        "--checkpoint",
        type=find_checkpoint,
        metavar="C",
        help="the weights it was made with (default: shipped, or as logged)",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be done; change nothing")
    parser.add_argument(
        "--delete-unexpected", action="store_true", help="delete what lies in the corpus and belongs to nothing in it"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="accept volumes that come out other than those that were lost"
    )
    add_where(parser)
    add_run(parser)
    add_json(parser)


def repair_corpus(arguments: argparse.Namespace) -> CommandResult:
    """Run `rephase repair`."""
    from rephase.builder.options import BuildOptions
    from rephase.builder.repair import RepairOptions
    from rephase.builder.repair import repair_corpus as repair

    where = (
        "cluster", "batch_size", "memory_limit", "volume_limit", "time_limit", "overwrite", "allow_mixed_devices",
        "break_lease", "dashboard_address",
    )  # fmt: skip
    build = BuildOptions(num_workers=arguments.workers, **{name: getattr(arguments, name) for name in where})
    options = RepairOptions(
        arguments.manifest, arguments.checkpoint, arguments.dry_run, arguments.delete_unexpected, build
    )
    with progress_bar("verifying") as progress:
        summary = repair(arguments.corpus, options, progress=progress)
    lines = summary.lines()
    if summary.interrupted or summary.stopped:
        lines.append(f"to carry on: {resume_command(arguments)}")
    return CommandResult(summary.exit_status, lines, summary.to_json())


def verify_corpus(arguments: argparse.Namespace) -> CommandResult:
    """Run `rephase verify`."""
    from rephase.corpus import verify
    from rephase.text import format_bytes

    with progress_bar("verifying") as progress:
        result = verify.verify_corpus(arguments.corpus, arguments.workers, progress)
    checked = f"{result.num_volumes} volumes, {result.num_slices} slices, {format_bytes(result.num_bytes)} read"
    lines = verify.fault_lines(result.faults)
    if result.unfinished:
        lines.append(f"{len(result.unfinished)} volumes were begun and not committed; the next build makes them again")
    if result.other_recipe:
        lines.append(
            f"{len(result.other_recipe)} volumes were made by another recipe than the corpus names, such as "
            f"{result.other_recipe[0]}; 'rephase build --overwrite' with all rows makes them alike"
        )
    lines.append(f"{arguments.corpus}: {checked}: {len(result.faults) or 'no'} faults")
    return CommandResult(0 if result.ok else 1, lines, {**asdict(result), "ok": result.ok})


def report_corpus(arguments: argparse.Namespace) -> CommandResult:
    """Run `rephase report`."""
    from rephase.reports.report import write_report

    with progress_bar("reading") as progress:
        path = write_report(arguments.corpus, arguments.output, num_volumes=arguments.volumes, progress=progress)
    return CommandResult(0, [f"report: {path}"], {"report": str(path)})
