"""`rephase weights`: the weights that belong to the package, their licences and what they were trained on."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from rephase.commands.result import CommandResult, Commands, add_command, add_json
from rephase.text import format_bytes

if TYPE_CHECKING:
    from rephase.diffusion.inventory import WeightsEntry


def register(commands: Commands) -> None:
    """Add the command."""
    weights = add_command(
        commands,
        "weights",
        list_weights,
        "list the weights: licence, hash, training data",
        "List the weights of learned phases by their name for `build --checkpoint`: licence, SHA-256, whether this\n"
        "installation has them undamaged, and what they were trained on. The default phase needs no weights.",
        "rephase weights\nrephase weights --json",
    )
    add_json(weights)


def list_weights(arguments: argparse.Namespace) -> CommandResult:
    """Run `rephase weights`."""
    from rephase.diffusion.inventory import inventory

    entries = inventory()
    lines = [line for entry in entries for line in _describe(entry)]
    data = {"weights": [entry.to_json() for entry in entries]}
    return CommandResult(1 if any(entry.state == "damaged" for entry in entries) else 0, lines, data)


def _describe(entry: WeightsEntry) -> list[str]:
    row = entry.weights
    place = "in the wheel" if row.in_wheel else "in the source tree only"
    here = {
        "intact": f"{entry.path}, intact",
        "damaged": f"{entry.path}, damaged: {entry.problem}; get both files again",
        "absent": "no; copy both files from diffusion/weights of the source tree and give --checkpoint FILE",
    }
    return [
        f"{entry.name}: {row.help}",
        f"  licence    {row.licence}",
        f"  shipped    {place}, {format_bytes(row.num_bytes)}",
        f"  installed  {here[entry.state]}",
        f"  SHA-256    {row.sha256}",
        f"  trained on {entry.training or 'unknown: its model card is not installed'}",
    ]
