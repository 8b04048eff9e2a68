"""`rephase manifest scan` and `manifest check`."""

from __future__ import annotations

import argparse
import secrets
import sys
from pathlib import Path

from rephase.commands.result import CommandResult, Commands, add_command, add_json, names


def register(commands: Commands) -> None:
    """Add `manifest` with its sub-commands."""
    parser = commands.add_parser(
        "manifest",
        help="make and check manifests",
        description="A manifest is a CSV file with a row per magnitude volume.",
    )
    inner = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _register_scan(inner)
    check = add_command(
        inner,
        "check",
        check_manifest,
        "check a manifest",
        "Check every row of a manifest without reading an image; all faults are listed at once.",
        "rephase manifest check brain.csv --files",
    )
    check.add_argument("manifest", metavar="M.csv", help="the manifest")
    check.add_argument("--files", action="store_true", help="also look whether every file is there")
    check.add_argument("--keep-columns", type=names, default=(), metavar="A,B", help="as for build")
    add_json(check)


def _register_scan(inner: Commands) -> None:
    scan = add_command(
        inner,
        "scan",
        scan_manifest,
        "make a manifest of the images in a folder",
        "Walk a folder and write a row for every magnitude volume in DICOM, NIfTI and HDF5 files: each series, echo\n"
        "and time point. Phase, real and imaginary images, field maps, derived images, localizers and other\n"
        "modalities are left out and counted. Volumes and subjects get salted hashes for names.",
        "rephase manifest scan /archive/brain -o brain.csv\n"
        "rephase manifest scan /archive/swi -o pairs.csv --pairs      # only volumes that have real phase",
    )
    scan.add_argument("folder", type=Path, metavar="FOLDER", help="the folder to walk")
    scan.add_argument("-o", "--output", type=Path, required=True, metavar="M.csv", help="the manifest to write")
    scan.add_argument("--pairs", action="store_true", help="only magnitude volumes that have real phase, with it")
    scan.add_argument(
        "--salt-file",
        type=Path,
        metavar="FILE",
        help="the secret behind the names, made where it is missing; equal salts give equal names "
        "(default: M.csv.salt; keep it from whoever gets the corpus)",
    )
    add_json(scan)


def scan_manifest(arguments: argparse.Namespace) -> CommandResult:
    """Run `rephase manifest scan`."""
    from tqdm import tqdm

    from rephase.errors import RequestError
    from rephase.manifests.scan import scan_folder
    from rephase.manifests.write import write_manifest
    from rephase.readers.registry import probe
    from rephase.text import printable

    if not arguments.folder.is_dir():
        raise RequestError(f"{arguments.folder}: is no folder; expected one to scan; check the path")
    if arguments.output.is_dir() or not arguments.output.parent.is_dir():
        raise RequestError(
            f"{arguments.output}: expected a file in a folder that exists; make the folder, or name a file"
        )
    salt_file = arguments.salt_file or arguments.output.with_name(arguments.output.name + ".salt")
    with tqdm(desc="scanning", unit="folder", disable=not sys.stderr.isatty()) as bar:
        result = scan_folder(
            arguments.folder,
            probe,
            salt=_read_salt(salt_file),
            pairs=arguments.pairs,
            progress=lambda _: bar.update() and None,
        )
    lines = [f"{count} {kind} volumes were left out" for kind, count in sorted(result.left_out.items())]
    if result.unpaired:
        lines.append(f"{result.unpaired} magnitude volumes without phase were left out")
    lines += [
        # a reader's own line names it
        printable(f"not understood: {why if why.startswith(f'{path}:') else f'{path}: {why}'}")
        for path, why in result.unreadable[:20]
    ]
    if len(result.unreadable) > 20:
        lines.append(f"and {len(result.unreadable) - 20} more that were not understood, all of them with --json")
    if not result.volumes:
        raise RequestError(
            "\n".join([*lines, f"{arguments.folder}: holds no magnitude volume; no manifest was written"])
        )
    try:
        write_manifest(result, arguments.output)
    except OSError as error:
        raise RequestError(f"{arguments.output}: cannot be written ({error.strerror or error})") from None
    data = {
        "manifest": str(arguments.output),
        "num_volumes": len(result.volumes),
        "left_out": dict(result.left_out),
        "unpaired": result.unpaired,
        "unreadable": [[str(path), why] for path, why in result.unreadable],
    }
    return CommandResult(0, [f"{arguments.output}: {len(result.volumes)} volumes", *lines], data)


def _read_salt(path: Path) -> str:
    """Read the salt, or make one that only its owner may read."""
    from rephase.errors import RequestError

    try:
        if not path.exists():
            path.touch(mode=0o600)
            path.write_text(secrets.token_hex(32) + "\n", encoding="ascii")
        salt = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{path}: the salt cannot be read or made ({error}); choose another --salt-file") from None
    if not salt:
        raise RequestError(f"{path}: is empty; expected a secret; remove the file and a new one is made")
    return salt


def check_manifest(arguments: argparse.Namespace) -> CommandResult:
    """Run `rephase manifest check`."""
    from rephase.manifests.parse import ManifestError, check_files, read_manifest

    manifest = read_manifest(arguments.manifest, arguments.keep_columns)
    if arguments.files and (faults := check_files(manifest)):
        raise ManifestError(faults)
    data = {"manifest": str(arguments.manifest), "num_rows": len(manifest), "columns": sorted(manifest.columns)}
    return CommandResult(0, [f"{arguments.manifest}: {len(manifest)} rows, nothing wrong"], data)
