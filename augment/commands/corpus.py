"""`rephase verify`, `repair`, `report`, `card` and `view`: maintenance of a finished corpus."""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from pathlib import Path

from rephase.commands.build import add_options, build_options, resume_command
from rephase.commands.result import CommandResult, Commands, add_command, add_json, count, progress_bar
from rephase.diffusion.shipped import find_checkpoint


def register(commands: Commands) -> None:
    """Add the commands."""
    check = add_command(
        commands,
        "verify",
        verify_corpus,
        "check every byte of a corpus",
        "Read a whole corpus and check it: every checksum and receipt, the index, that no value is NaN or a negative\n"
        "zero, and that the k-space of every slice reproduces its magnitude.\n\n"
        "Exit status: 0 no errors; 1 errors were found and listed; 2 no corpus at this path.",
        "rephase verify brain.zarr\nrephase verify brain.zarr --workers 8 --json",
    )
    check.add_argument("corpus", metavar="CORPUS", help="path or URL of the corpus")
    check.add_argument("--workers", type=count, metavar="N", help="threads (default: one per core)")
    add_json(check)
    repair = add_command(
        commands,
        "repair",
        repair_corpus,
        "rebuild damaged volumes",
        "Check a corpus as 'verify' does, and repair only what is wrong: damaged and lost volumes are rebuilt from\n"
        "the manifest, byte for byte the same on machines of the same kind; the index and the documents of the corpus\n"
        "are rewritten. A volume whose source or row has changed since is left unchanged and listed.\n\n"
        "Exit status: 0 no errors left; 1 errors left, or found by --dry-run; 2 usage error; 130 interrupted.",
        "rephase repair brain.zarr --dry-run\nrephase repair brain.zarr\n"
        "rephase repair brain.zarr --manifest brain.csv --delete-unexpected --workers 4",
    )
    _add_repair_options(repair)
    report = add_command(
        commands,
        "report",
        report_corpus,
        "write an HTML report of a corpus",
        "Write one self-contained HTML file: what was built, from what, how fast, what failed and why, distributions,\n"
        "outliers, a table of volumes, pictures of some, and how to cite it.",
        "rephase report brain.zarr\nrephase report brain.zarr -o brain.html --volumes 20\n"
        "rephase report brain.zarr --compare other.zarr",
    )
    report.add_argument("corpus", metavar="CORPUS", help="path or URL of the corpus")
    report.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="the HTML file (default: CORPUS.run/report.html)"
    )
    report.add_argument("--volumes", type=count, default=8, metavar="N", help="volumes with pictures (default: 8)")
    report.add_argument("--compare", metavar="CORPUS", help="another corpus, compared with this one")
    add_json(report)
    card = add_command(
        commands,
        "card",
        card_corpus,
        "write the data card of a corpus",
        "Write README.md with the header of Hugging Face, and croissant.json (Croissant 1.0): contents, licences of\n"
        "the sources, known processing, citation.",
        "rephase card brain.zarr\nrephase card brain.zarr -o card",
    )
    card.add_argument("corpus", metavar="CORPUS", help="path or URL of the corpus")
    card.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="the folder (default: CORPUS.run/card)")
    add_json(card)
    view = add_command(
        commands,
        "view",
        view_volume,
        "write a page to look through a volume",
        "Write one self-contained HTML file of a volume: magnitude, phase and k-space, three planes, sliders.",
        "rephase view brain.zarr\nrephase view brain.zarr head-01 -o head-01.html",
    )
    view.add_argument("corpus", metavar="CORPUS", help="path or URL of the corpus")
    view.add_argument("volume", metavar="VOLUME", nargs="?", help="name of the volume (default: the first one)")
    view.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="the HTML file (default: CORPUS.run/view-VOLUME.html)"
    )
    add_json(view)


def _add_repair_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("corpus", metavar="CORPUS", help="path or URL of the corpus")
    parser.add_argument(
        "--manifest", metavar="M.csv", help="manifest with the rows of the volumes (default: that of the latest run)"
    )
    parser.add_argument(
        "--checkpoint",
        type=find_checkpoint,
        metavar="C",
        help="weights that the corpus was built with (default: those installed, or those in the run log)",
    )
    parser.add_argument("--dry-run", action="store_true", help="report what would be done; change nothing")
    parser.add_argument(
        "--delete-unexpected",
        action="store_true",
        help="delete orphan objects, which belong to no volume",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="accept rebuilt volumes that differ from the damaged ones"
    )
    add_options(parser, ("execution", "run"), omit=("retry_failed",))
    add_json(parser)


def repair_corpus(arguments: argparse.Namespace) -> CommandResult:
    """Run `rephase repair`."""
    from rephase.builder.repair import RepairOptions
    from rephase.builder.repair import repair_corpus as repair

    options = RepairOptions(
        arguments.manifest,
        arguments.checkpoint,
        arguments.dry_run,
        arguments.delete_unexpected,
        replace(build_options(arguments), checkpoint=None),
    )
    with progress_bar("verifying") as progress:
        summary = repair(arguments.corpus, options, progress=progress)
    lines = summary.lines()
    if summary.interrupted or summary.stopped:
        lines.append(f"to resume: {resume_command(arguments)}")
    return CommandResult(summary.exit_status, lines, summary.to_json())


def verify_corpus(arguments: argparse.Namespace) -> CommandResult:
    """Run `rephase verify`."""
    from rephase.corpus import verify
    from rephase.text import format_bytes

    with progress_bar("verifying") as progress:
        result = verify.verify_corpus(arguments.corpus, arguments.workers, progress)
    checked = f"{result.num_volumes} volumes, {result.num_slices} slices, {format_bytes(result.num_bytes)} read"
    lines = verify.problem_lines(result.problems)
    if result.unfinished:
        lines.append(f"{len(result.unfinished)} volumes were started and not committed; the next build rebuilds them")
    if result.other_recipe:
        lines.append(
            f"{len(result.other_recipe)} volumes were built by another recipe than that of the corpus, such as "
            f"{result.other_recipe[0]}; 'rephase build --overwrite' with all rows rebuilds them"
        )
    lines.append(f"{arguments.corpus}: {checked}: {len(result.problems) or 'no'} errors")
    return CommandResult(0 if result.ok else 1, lines, {**asdict(result), "ok": result.ok})


def report_corpus(arguments: argparse.Namespace) -> CommandResult:
    """Run `rephase report`."""
    from rephase.reports.report import write_report

    with progress_bar("reading") as progress:
        path = write_report(
            arguments.corpus,
            arguments.output,
            num_volumes=arguments.volumes,
            compare=arguments.compare,
            progress=progress,
        )
    return CommandResult(0, [f"report: {path}"], {"report": str(path)})


def view_volume(arguments: argparse.Namespace) -> CommandResult:
    """Run `rephase view`."""
    from rephase.reports.view import write_view

    with progress_bar("reading", "slice") as progress:
        path = write_view(arguments.corpus, arguments.volume, arguments.output, progress)
    return CommandResult(0, [f"view: {path}"], {"view": str(path)})


def card_corpus(arguments: argparse.Namespace) -> CommandResult:
    """Run `rephase card`."""
    from rephase.reports.card import write_card

    with progress_bar("reading") as progress:
        paths = write_card(arguments.corpus, arguments.output, progress)
    return CommandResult(0, [f"card: {path}" for path in paths], {"card": [str(path) for path in paths]})
