"""`rephase coils estimate`: banks of coil arrays from measured data."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rephase.commands.result import CommandResult, Commands, add_command, add_json

if TYPE_CHECKING:  # `--help` imports neither NumPy nor torch
    import numpy as np
    from numpy.typing import NDArray

    from rephase.data.base import VolumeSlices


def register(commands: Commands) -> None:
    """Add `coils` with its sub-command."""
    parser = commands.add_parser(
        "coils", help="measure arrays of receive coils", description="Arrays of receive coils for 'build --coils'."
    )
    inner = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    estimate = add_command(
        inner,
        "estimate",
        estimate_bank,
        "make a bank of coil arrays from multi-coil k-space",
        "Estimate the coil sensitivities of every fastMRI file of a directory by ESPIRiT, describe them by a few\n"
        "numbers per coil, and write them to a bank for 'rephase build --coils bank:FILE'. A bank has no image.\n"
        "All files need the same number of coils; files that cannot be used are listed. Needs the extra coils.",
        "rephase coils estimate multicoil_train/ -o own.npz\nrephase build brain.csv brain.zarr --coils bank:own.npz",
    )
    estimate.add_argument("folder", type=Path, metavar="FOLDER", help="directory of fastMRI's multi-coil .h5 files")
    estimate.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="the bank to write (.npz)")
    add_json(estimate)


def estimate_bank(arguments: argparse.Namespace) -> CommandResult:
    """Run `rephase coils estimate`."""
    from tqdm import tqdm

    from rephase.data.fastmri_slices import FastMRISlices
    from rephase.errors import RequestError, VolumeError
    from rephase.scanner.estimate import estimate_array, make_bank, require_sigpy

    require_sigpy()
    scans = FastMRISlices(arguments.folder)
    arrays, failed = [], {}
    num_coils = 0
    for volume, name in enumerate(tqdm(scans.volumes, unit="file", disable=None)):
        try:
            spacing_mm = scans.volume_attributes(volume)["spacing_mm"]
            if not all(step > 0 for step in spacing_mm):  # NaN if unknown
                raise VolumeError("unsupported", f"{name}: states no spacing; expected it in its header; leave it out")
            if num_coils and scans.volume_matrix(volume)[0] != num_coils:
                found = scans.volume_matrix(volume)[0]
                raise VolumeError("unsupported", f"{name}: has {found} coils; expected {num_coils}; leave it out")
            count = int(scans.volume_slices[volume])
            arrays.append(estimate_array(partial(_kspace, scans, volume), count, spacing_mm, name))
            num_coils = scans.volume_matrix(volume)[0]
        except VolumeError as error:
            failed[name] = str(error)
    if not arrays:
        raise RequestError("\n".join([f"{arguments.folder}: no file that can be used:", *failed.values()]))
    make_bank(arrays).save(arguments.output)
    lines = [f"{arguments.output}: {len(arrays)} arrays of {num_coils} coils", *failed.values()]
    return CommandResult(1 if failed else 0, lines, {"arrays": len(arrays), "num_coils": num_coils, "failed": failed})


def _kspace(scans: VolumeSlices, volume: int, slice_index: int) -> NDArray[np.complex64]:
    return scans.read_parts(volume, slice_index).kspace
