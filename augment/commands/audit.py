"""`rephase audit`: what headers and values of magnitude volumes tell of processing after the acquisition."""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import asdict
from typing import Any

from rephase.commands.result import CommandResult, Commands, add_command, add_json, progress_bar


def register(commands: Commands) -> None:
    """Add the command."""
    audit = add_command(
        commands,
        "audit",
        audit_volumes,
        "look for processing in magnitude volumes",
        "Read magnitude volumes and list what shows that they were processed after the acquisition: interpolation and\n"
        "filters, lossy compression, few grey levels, clipping, masked background, and a high noise floor; from\n"
        "values and headers. A volume without findings is not proven to be raw.\n\n"
        "Exit status: 0 all volumes read; 1 some cannot be read; 2 usage error.",
        "rephase audit brain.csv\nrephase audit head.nii.gz --json",
    )
    audit.add_argument("source", metavar="PATH|M.csv", help="a volume (file or DICOM folder), or a manifest")
    add_json(audit)


def audit_volumes(arguments: argparse.Namespace) -> CommandResult:
    """Run `rephase audit`."""
    from rephase.errors import VolumeError
    from rephase.manifests.parse import read_manifest
    from rephase.pipeline.audit import audit_acquisition, audit_volume
    from rephase.pipeline.magnitude import prepare_magnitude
    from rephase.pipeline.pixel_audit import measure_pixels
    from rephase.readers.registry import read_volume
    from rephase.text import printable

    is_manifest = arguments.source.lower().endswith(".csv")
    rows: Any = list(read_manifest(arguments.source)) if is_manifest else [arguments.source]
    volumes: list[dict[str, Any]] = []
    unreadable: list[list[str]] = []
    totals: Counter[str] = Counter()
    with progress_bar("reading") as progress:
        for number, row in enumerate(rows):
            name = row.volume_id if is_manifest else str(row)
            try:
                volume = read_volume(row)
                prepared = prepare_magnitude(volume.magnitude)
            except VolumeError as error:
                unreadable.append([name, str(error)])
            else:
                # not scaled by a power of two, so that figures are in the units of the file
                figures = measure_pixels(volume.magnitude.clip(min=0), volume.phase)
                flags = audit_volume(volume, prepared.clipped) | audit_acquisition(volume) | figures.flags()
                totals.update(list(flags))
                volumes.append({"volume": name, "flags": flags, "figures": asdict(figures)})
            progress(number + 1, len(rows))
    lines = [printable(f"{one['volume']}: {_described(one['flags'])}") for one in volumes]
    lines += [printable(f"{name}: not read: {why.removeprefix(f'{name}: ')}") for name, why in unreadable]
    counted = ", ".join(f"{flag} {count}" for flag, count in totals.most_common()) or "none"
    lines.append(f"{len(volumes)} volumes audited, {len(unreadable)} not read; flags: {counted}")
    data = {"volumes": volumes, "unreadable": unreadable, "totals": dict(totals)}
    return CommandResult(1 if unreadable else 0, lines, data)


def _described(flags: dict[str, Any]) -> str:
    """Return flags with their figures in one line, such as `zero_filled (stored 128 x 128, acquired 96 x 96)`."""
    return "; ".join(f"{flag} ({_figures(value)})" for flag, value in flags.items()) or "nothing found"


def _figures(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_figures(one)}" for key, one in value.items())
    if isinstance(value, list):
        return " x ".join(map(str, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
