"""`rephase manifest scan` and `manifest check`."""

from __future__ import annotations

import argparse
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rephase.commands.result import CommandResult, Commands, add_command, add_json, argument, names
from rephase.formats import READERS

if TYPE_CHECKING:
    from rephase.manifests.scan import ScanResult


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
        "Walk a folder and write a row for every magnitude volume: each series, echo and time point is one. All else\n"
        "(phase, derived images, label maps, other formats, ...) is counted by its kind. Label maps of images become\n"
        "their segmentation. Volume and subject ids are salted hashes.\n\n"
        "formats:\n" + "\n".join(f"  {reader.name:<6}  {reader.help}" for reader in scanned),
        "rephase manifest scan /archive/brain -o brain.csv\n"
        "rephase manifest scan /archive/swi -o pairs.csv --pairs      # only volumes with measured phase\n"
        "rephase manifest scan /archive -o m.csv --split train=0.8,val=0.2 --frames 4 --exclude '*derivatives*'",
    )
    scan.add_argument("folder", type=Path, metavar="FOLDER", help="the folder to walk")
    scan.add_argument("-o", "--output", type=Path, required=True, metavar="M.csv", help="the manifest to write")
    scan.add_argument(
        "--pairs", action="store_true", help="only magnitude volumes with measured phase, for training; name the phase"
    )
    scan.add_argument(
        "--include", action="append", default=[], metavar="GLOB", help="only volumes whose path or file name matches"
    )
    scan.add_argument(
        "--exclude", action="append", default=[], metavar="GLOB", help="no volumes whose path or file name matches"
    )
    scan.add_argument(
        "--contrast", action="append", default=[], metavar="GLOB", help="only contrasts that match, such as 'T2*'"
    )
    scan.add_argument(
        "--frames",
        type=argument(_frames),
        metavar="first|N",
        help="at most N time points of a series, evenly spaced, so that long series do not dominate (default: all)",
    )
    scan.add_argument(
        "--split",
        type=argument(_split),
        default={},
        metavar="train=0.8,val=0.1,test=0.1",
        help="fill the column split, by a hash of the subject",
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


def _frames(text: str) -> int:
    from rephase.manifests.select import parse_frames  # imported when used: `--help` of any command is fast

    return parse_frames(text)


def _split(text: str) -> dict[str, float]:
    from rephase.manifests.select import parse_split

    return parse_split(text)


def scan_manifest(arguments: argparse.Namespace) -> CommandResult:
    """Run `rephase manifest scan`."""
    from tqdm import tqdm

    from rephase.errors import RequestError
    from rephase.manifests.scan import scan_folder
    from rephase.manifests.select import Selection
    from rephase.manifests.write import write_manifest
    from rephase.readers.registry import probe

    if not arguments.folder.is_dir():
        raise RequestError(f"{arguments.folder}: not a directory; expected a folder of images; check the path")
    if arguments.output.is_dir() or not arguments.output.parent.is_dir():
        raise RequestError(
            f"{arguments.output}: not a file in an existing directory; expected one; choose another path"
        )
    salt_file = arguments.salt_file or arguments.output.with_name(arguments.output.name + ".salt")
    with tqdm(desc="scanning", unit="file", disable=not sys.stderr.isatty()) as bar:
        result = scan_folder(
            arguments.folder,
            probe,
            salt=_read_salt(salt_file),
            pairs=arguments.pairs,
            selection=Selection(
                include=tuple(arguments.include),
                exclude=tuple(arguments.exclude),
                contrast=tuple(arguments.contrast),
                frames=arguments.frames,
                split=arguments.split,
            ),
            progress=lambda _: bar.update() and None,
        )
    lines = _scan_lines(result)
    data = {
        "manifest": str(arguments.output) if result.volumes else None,
        "num_volumes": len(result.volumes),
        "skipped": dict(result.skipped),
        "unpaired": result.unpaired,
        "not_selected": result.not_selected,
        "unreadable": [[str(path), why] for path, why in result.unreadable],
        "passed": [[str(path), kind, why] for path, kind, why in result.passed],
        "notes": [[str(path), note] for path, note in result.notes],
    }
    if not result.volumes:
        lines.append(f"{arguments.folder}: no magnitude volume found; expected at least one; check the path")
        raise RequestError("\n".join(lines), data)
    try:
        write_manifest(result, arguments.output)
    except OSError as error:
        raise RequestError(
            f"{arguments.output}: cannot be written ({error.strerror or error}); expected a writable path; choose one"
        ) from None
    return CommandResult(0, [f"{arguments.output}: {len(result.volumes)} volumes", *lines], data)


_MOST_LINES = 20
_MOST_NAMES = 4


def _scan_lines(result: ScanResult) -> list[str]:
    """Return the lines about what a scan did not take, and about what a user should know of the rest."""
    lines = []
    if result.skipped:
        lines.append("skipped: " + ", ".join(f"{count} {kind}" for kind, count in sorted(result.skipped.items())))
    if result.not_selected:
        lines.append(f"skipped: {result.not_selected} magnitude by --include, --exclude, --contrast or --frames")
    if result.unpaired:
        lines.append(f"skipped: {result.unpaired} magnitude without phase")
    told = [(passed.path, passed.why) for passed in result.passed if passed.kind != "no image"]
    lines += _grouped("passed over", told)
    lines += _grouped("unreadable", result.unreadable, together=1)
    lines += _grouped("note", result.notes)
    return lines


def _grouped(word: str, told: list[tuple[Path, str]], together: int | None = None) -> list[str]:
    """Return a line for all paths, or at most `together` ones, of which the same is told."""
    from rephase.text import printable

    groups: list[tuple[str, dict[Path, None]]] = []
    latest: dict[str, dict[Path, None]] = {}
    for path, why in told:
        text = why.removeprefix(f"{path}:").strip()  # the message of a reader starts with the path already
        members = latest.get(text)
        if members is None or len(members) == together:
            members = latest[text] = {}
            groups.append((text, members))
        members[path] = None
    lines = []
    for text, members in groups[:_MOST_LINES]:
        first, *others = members
        named = ", ".join([str(first), *(path.name for path in others[:_MOST_NAMES])])
        more = f" and {len(others) - _MOST_NAMES} more" if len(others) > _MOST_NAMES else ""
        lines.append(printable(f"{word}: {named}{more}: {text}"))
    if len(groups) > _MOST_LINES:
        lines.append(f"and {len(groups) - _MOST_LINES} more lines '{word}'; --json lists all")
    return lines


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
