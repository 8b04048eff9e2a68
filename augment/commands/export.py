"""`rephase export`: write a corpus as files for other tools."""

from __future__ import annotations

import argparse
import sys

from rephase.commands.build import resume_command
from rephase.commands.result import CommandResult, Commands, add_command, add_json, names
from rephase.exports.formats import EXPORTS


def register(commands: Commands) -> None:
    """Add the command."""
    needs = {name: f"; needs the extra {kind.extra}" if kind.extra else "" for name, kind in EXPORTS.items()}
    width = max(map(len, EXPORTS))
    formats = "\n".join(f"  {name:{width}}  {kind.help}{needs[name]}" for name, kind in EXPORTS.items())
    default = next(iter(EXPORTS))
    export = add_command(
        commands,
        "export",
        export_files,
        f"write files for other tools: {', '.join(EXPORTS)}",
        f"Write the volumes of a corpus as files that other tools open:\n\n{formats}\n\n"
        "Each file is written beside the directory and renamed into it when it is complete. Run the same command\n"
        "again to resume: volumes that are up to date are skipped, those that changed in the corpus are written again.",
        "rephase export brain.zarr brain-h5\n"
        "rephase export brain.zarr brain-h5 --by-split --contrast T1,T2 --compression gzip\n"
        "rephase export brain.zarr brain-cfl --format bart --volumes head-01",
    )
    export.add_argument("corpus", metavar="CORPUS", help="path or URL of the corpus")
    export.add_argument("folder", metavar="OUT", help="directory to write to; created if it does not exist")
    export.add_argument(
        "--format", choices=tuple(EXPORTS), default=default, dest="file_format", help=f"(default: {default})"
    )
    export.add_argument("--split", type=names, metavar="A,B", help="only volumes of these splits")
    export.add_argument("--contrast", type=names, metavar="A,B", help="only volumes of these contrasts")
    export.add_argument("--volumes", type=names, metavar="A,B", help="only these volumes")
    export.add_argument(
        "--by-split", action="store_true", help="a sub-directory for each split; 'none' for volumes without one"
    )
    export.add_argument(
        "--compression",
        choices=tuple(dict.fromkeys(one for kind in EXPORTS.values() for one in kind.compressions)),
        default="none",
        help="compression of the arrays, if the format has it (default: none)",
    )
    add_json(export)


def export_files(arguments: argparse.Namespace) -> CommandResult:
    """Run `rephase export`."""
    from functools import partial

    from tqdm import tqdm

    from rephase.exports.export import ExportOptions, export_corpus

    options = ExportOptions(
        file_format=arguments.file_format,
        splits=arguments.split,
        contrasts=arguments.contrast,
        volumes=arguments.volumes,
        by_split=arguments.by_split,
        compression=arguments.compression,
    )
    bar = partial(tqdm, desc="exporting", unit="volume", disable=not sys.stderr.isatty())
    summary = export_corpus(arguments.corpus, arguments.folder, options, bar)
    lines = summary.lines()
    if summary.interrupted or summary.stopped:
        lines.append(f"to resume: {resume_command(arguments)}")
    return CommandResult(summary.exit_status, lines, summary.to_json())
