"""What is known of the weights of the package: table, files and model cards together. Does not import torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rephase.diffusion import shipped
from rephase.diffusion.shipped import WEIGHTS, Weights
from rephase.files import file_sha256
from rephase.text import one_line


@dataclass(frozen=True)
class WeightsEntry:
    """One set of weights in this installation.

    Attributes
    ----------
    name
        Name for `--checkpoint`.
    weights
        Its row of `rephase.diffusion.shipped.WEIGHTS`.
    state
        `intact`, if both files are there, the hash is that of the table and the card can be read; `damaged`; or
        `absent`.
    path
        The safetensors file, whether it exists or not.
    card
        The model card; None if it is absent or damaged.
    problem
        What is wrong if `damaged`, else empty.
    """

    name: str
    weights: Weights
    state: Literal["intact", "damaged", "absent"]
    path: Path
    card: Mapping[str, Any] | None = None
    problem: str = ""

    @property
    def training(self) -> str | None:
        """One line on the training data, from the model card; None without a card."""
        return None if self.card is None else _training(self.card)

    def to_json(self) -> dict[str, Any]:
        """Return the entry for `--json`."""
        card = self.card or {}
        return {
            "name": self.name,
            "help": self.weights.help,
            "licence": self.weights.licence,
            "sha256": self.weights.sha256,
            "bytes": self.weights.num_bytes,
            "in_wheel": self.weights.in_wheel,
            "state": self.state,
            "path": None if self.state == "absent" else str(self.path),
            "problem": self.problem or None,
            "trained_on": card.get("data"),
            "seen": card.get("seen"),
        }


def inventory() -> list[WeightsEntry]:
    """Return all weights of the package, in the order of the table."""
    return [_entry(name, row) for name, row in WEIGHTS.items()]


def _entry(name: str, row: Weights) -> WeightsEntry:
    path = shipped.FOLDER / f"{name}.safetensors"
    card_path = path.with_suffix(".json")
    if not path.exists() and not card_path.exists():
        return WeightsEntry(name, row, "absent", path)
    card = None
    try:
        card = json.loads(card_path.read_text(encoding="utf-8"))
        if not isinstance(card, dict):
            card = None
            raise ValueError("expected an object")
        found = file_sha256(path)
    except (OSError, ValueError, RecursionError) as error:
        where = path.name if card is not None else card_path.name
        why = error.strerror if isinstance(error, OSError) and error.strerror else one_line(error)
        return WeightsEntry(name, row, "damaged", path, card, f"{where}: {why}")
    if found != row.sha256:
        return WeightsEntry(name, row, "damaged", path, card, f"SHA-256 of {path.name} is {found[:16]}...")
    return WeightsEntry(name, row, "intact", path, card)


def _training(card: Mapping[str, Any]) -> str:
    """Describe the entry `data` of a model card, as `rephase train` and `distill` write it."""
    data = card.get("data", {})
    licences = data.get("licences", {})
    parts = [f"{count:,} real slices under {licence}" for licence, count in licences.items()]
    if data.get("simulated_slices"):
        parts.append(f"{data['simulated_slices']:,} simulated slices")
    seen = card.get("seen") or {}
    facts = [
        *seen.get("sequences", ()),
        *seen.get("anatomies", ()),
        *(f"{one:g} T" for one in seen.get("fields_t", ())),
    ]
    return ", ".join(parts) + (f" ({', '.join(facts)})" if facts else "")
