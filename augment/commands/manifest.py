"""`rephase manifest scan` and `manifest check`."""

from __future__ import annotations

import argparse
import secrets
import sys
from pathlib import Path

from rephase.commands.result import CommandResult, Commands, add_command, add_json, names
from rephase.formats import READERS


def register(commands: Commands) -> None:
    """Add `manifest` with its sub-commands."""
    parser = commands.add_parser(
        "manifest",
        help="make and check manifests",
        description="A manifest is a CSV file with one row per magnitude volume.",
    )
    inner = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    scanned = [reader for reader in READERS.values() if reader.scanned]
    scan = add_command(
        inner,
        "scan",
        scan_manifest,
        "make a manifest of the images in a folder",
        "Walk a folder and write a row for every magnitude volume: each series, echo and time point is one. Phase,\n"
        "real, imaginary and derived images, field maps, localizers and other modalities are skipped and counted.\n"
        "Volume and subject ids are salted hashes.\n\n"
        "formats:\n" + "\n".join(f"  {reader.name:<6}  {reader.help}" for reader in scanned),
        "rephase manifest scan /archive/brain -o brain.csv\n"
        "rephase manifest scan /archive/swi -o pairs.csv --pairs      # only volumes with measured phase",
    )
    scan.add_argument("folder", type=Path, metavar="FOLDER", help="the folder to walk")
    scan.add_argument("-o", "--output", type=Path, required=True, metavar="M.csv", help="the manifest to write")
    scan.add_argument(
        "--pairs", action="store_true", help="only magnitude volumes with measured phase, for training; name the phase"
    )
    scan.add_argument(
        "--salt-file",
        type=Path,
        metavar="FILE",
        help="secret salt of the ids, created if missing; the same salt gives the same ids "
        "(default: M.csv.salt; keep it from recipients of the corpus)",
    )
    add_json(scan)
    check = add_command(
        inner,
        "check",
        check_manifest,
        "check a manifest",
        "Check every row of a manifest without reading an image; all errors are listed at once.",
        "rephase manifest check brain.csv --files",
    )
    check.add_argument("manifest", metavar="M.csv", help="the manifest")
    check.add_argument("--files", action="store_true", help="also check that every file exists")
    check.add_argument("--keep-columns", type=names, default=(), metavar="A,B", help="as for build")
    add_json(check)


def scan_manifest(arguments: argparse.Namespace) -> CommandResult:
    """Run `rephase manifest scan`."""
    from tqdm import tqdm

    from rephase.errors import RequestError
    from rephase.manifests.scan import scan_folder
    from rephase.manifests.write import write_manifest
    from rephase.readers.registry import probe
    from rephase.text import printable

    if not arguments.folder.is_dir():
        raise RequestError(f"{arguments.folder}: not a directory; expected a folder of images; check the path")
    if arguments.output.is_dir() or not arguments.output.parent.is_dir():
        raise RequestError(
            f"{arguments.output}: not a file in an existing directory; expected one; choose another path"
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
    lines = [f"{count} {kind} volumes skipped" for kind, count in sorted(result.skipped.items())]
    if result.unpaired:
        lines.append(f"{result.unpaired} magnitude volumes without phase skipped")
    lines += [
        # the message of a reader starts with the path already
        printable(f"unreadable: {why if why.startswith(f'{path}:') else f'{path}: {why}'}")
        for path, why in result.unreadable[:20]
    ]
    if len(result.unreadable) > 20:
        lines.append(f"and {len(result.unreadable) - 20} more unreadable files; --json lists all")
    if not result.volumes:
        lines.append(f"{arguments.folder}: no magnitude volume found; expected at least one; check the path")
        raise RequestError("\n".join(lines))
    try:
        write_manifest(result, arguments.output)
    except OSError as error:
        raise RequestError(
            f"{arguments.output}: cannot be written ({error.strerror or error}); expected a writable path; choose one"
        ) from None
    data = {
        "manifest": str(arguments.output),
        "num_volumes": len(result.volumes),
        "skipped": dict(result.skipped),
        "unpaired": result.unpaired,
        "unreadable": [[str(path), why] for path, why in result.unreadable],
    }
    return CommandResult(0, [f"{arguments.output}: {len(result.volumes)} volumes", *lines], data)


def _read_salt(path: Path) -> str:
    """Read the salt, or create one that only its owner may read."""
    from rephase.errors import RequestError

    try:
        if not path.exists():
            path.touch(mode=0o600)
            path.write_text(secrets.token_hex(32) + "\n", encoding="ascii")
        salt = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(
            f"{path}: cannot be read or created ({error}); expected a file for the salt; choose another --salt-file"
        ) from None
    if not salt:
        raise RequestError(f"{path}: is empty; expected the salt; delete the file to get a new one")
    return salt


def check_manifest(arguments: argparse.Namespace) -> CommandResult:
    """Run `rephase manifest check`."""
    from rephase.manifests.parse import ManifestError, check_files, read_manifest

    manifest = read_manifest(arguments.manifest, arguments.keep_columns)
    if arguments.files and (problems := check_files(manifest)):
        raise ManifestError(problems)
    data = {"manifest": str(arguments.manifest), "num_rows": len(manifest), "columns": sorted(manifest.columns)}
    return CommandResult(0, [f"{arguments.manifest}: {len(manifest)} rows, OK"], data)
