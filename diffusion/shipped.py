"""The weights in the repository, and their availability in an installation. Does not import torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "weights"


@dataclass(frozen=True)
class Weights:
    """One row of `WEIGHTS`: `<name>.safetensors` in `FOLDER`, with the model card `<name>.json` next to it.

    `sha256` and `num_bytes` are those of the safetensors file; `in_wheel`: whether the wheel contains both files.
    """

    help: str
    licence: str
    sha256: str
    num_bytes: int
    in_wheel: bool = False


WEIGHTS = {
    "permissive": Weights(
        "phase in one network evaluation per slice, from permissively licensed and simulated data: --phase diffusion",
        "Apache-2.0",
        "380d58169eaaa37b41b8798ba672421cbace609e5b08c374984789873cbd03c1",
        6_207_976,
        in_wheel=True,
    ),
    "teacher": Weights(
        "phase by flow matching, for any number of network evaluations",
        "GPL-3.0",
        "3fb7d49458eddb6a765cb4a7e5748d4c5d417fe85430a61fa990ac46e997057c",
        9_815_248,
    ),
    "regression": Weights(
        "the expected phase in one network evaluation, a baseline: --phase regression",
        "GPL-3.0",
        "e9b78f298426ffac30d6415b6c10f9834636d00318de411b7f709a1a359aa47d",
        1_342_272,
    ),
}
"""Shipped weights by their name for `--checkpoint`. README.md of the folder has the same table."""


def shipped_weights(name: str) -> Path | None:
    """Return the safetensors file of shipped weights, or None if this installation does not have it."""
    path = FOLDER / f"{name}.safetensors"
    return path if path.is_file() else None


def default_checkpoint() -> Path | None:
    """Return the weights of `--phase diffusion`, or None if this installation does not have them."""
    return shipped_weights("permissive")


def find_checkpoint(text: str) -> Path:
    """Return the file that `--checkpoint` names: that path or, if it does not exist, shipped weights of that name."""
    path = Path(text)
    if path.is_file() or path.name != text:
        return path
    return shipped_weights(text) or path


def describe_missing(name: str) -> str:
    """Format one line on shipped weights missing from this installation: where they are and how to use them."""
    if WEIGHTS[name].in_wheel:
        return f"weights {name!r} are missing from {FOLDER}; expected {name}.safetensors; install rephase again"
    return (
        f"weights {name!r} are not part of this installation; expected {name}.safetensors and {name}.json; take both "
        f"from diffusion/weights of the source tree (SHA-256 {WEIGHTS[name].sha256}) and give --checkpoint "
        f"{name}.safetensors"
    )
