"""`rephase export`: a corpus as files for other tools."""

from __future__ import annotations

import argparse
import sys

from rephase.commands.build import resume_command
from rephase.commands.result import CommandResult, Commands, add_command, add_json, names


def register(commands: Commands) -> None:
    """Add the command."""
    export = add_command(
        commands,
        "export",
        export_files,
        "write files for other tools: fastMRI, BART, ISMRMRD",
        "Write the volumes of a corpus as files that other tools open:\n\n"
        "  fastmri   one HDF5 file a volume and nothing else in the folder: fastMRI, DIRECT, deepinv, mrpro\n"
        "  bart      a folder a volume with .cfl and .hdr files\n"
        "  ismrmrd   one ISMRMRD (MRD) HDF5 file a volume; needs the extra: pip install 'rephase[ismrmrd]'\n\n"
        "Every file is written beside the folder, read back, compared and moved into it. Run the same command again\n"
        "to carry on: finished volumes are skipped, those that changed in the corpus are written anew.",
        "rephase export brain.zarr brain-h5\n"
        "rephase export brain.zarr brain-h5 --by-split --contrast T1,T2 --compression gzip\n"
        "rephase export brain.zarr brain-cfl --format bart --volumes head-01",
    )
    export.add_argument("corpus", metavar="CORPUS", help="path or URL of the corpus")
    export.add_argument("folder", metavar="OUT", help="the folder to write to; made where it is missing")
    export.add_argument(
        "--format",
        choices=("fastmri", "bart", "ismrmrd"),
        default="fastmri",
        dest="file_format",
        help="(default: fastmri)",
    )
    export.add_argument("--split", type=names, metavar="A,B", help="only volumes of these splits")
    export.add_argument("--contrast", type=names, metavar="A,B", help="only volumes of these contrasts")
    export.add_argument("--volumes", type=names, metavar="A,B", help="only these volumes")
    export.add_argument(
        "--by-split", action="store_true", help="a sub-folder for each split; volumes without one go to 'none'"
    )
    export.add_argument(
        "--compression", choices=("none", "gzip"), default="none", help="of fastMRI's files (default: none)"
    )
    export.add_argument("--check", action="store_true", help="read finished volumes too, and write damaged ones anew")
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
        check=arguments.check,
    )
    bar = partial(tqdm, desc="exporting", unit="volume", disable=not sys.stderr.isatty())
    summary = export_corpus(arguments.corpus, arguments.folder, options, bar)
    lines = summary.lines()
    if summary.interrupted or summary.stopped:
        lines.append(f"to carry on: {resume_command(arguments)}")
    return CommandResult(summary.exit_status, lines, summary.to_json())
