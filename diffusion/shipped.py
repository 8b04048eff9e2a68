"""The weights that ship with the package, by name. Loads nothing: the command line asks it for names."""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parent / "weights"


def shipped_weights(name: str) -> Path | None:
    """The file of that name, such as `permissive`, or None where this installation has none."""
    path = _FOLDER / f"{name}.safetensors"
    return path if path.exists() else None


def find_checkpoint(text: str) -> Path:
    """Say which weights are meant: a file, or, where there is no file of that name, the shipped ones of that name."""
    path = Path(text)
    if path.is_file() or path.name != text:
        return path
    return shipped_weights(text) or path
