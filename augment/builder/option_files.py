"""The options of a build as a TOML file: read by `--config`, and written beside the corpus by every build."""

from __future__ import annotations

import json
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

from rephase.builder.options import ARGUMENTS, BuildOptions, flag
from rephase.corpus.storage.open import open_run_folder
from rephase.errors import RequestError
from rephase.redaction import without_secrets

_KEY = "build.toml"
_ONCE = ("break_lease", "retry_failed", "overwrite", "insecure", "allow_mixed_devices")
"""Options of one run: whoever repeats a build says so again."""


def read_options(path: str) -> dict[str, Any]:
    """Read options by their names in Python, from a file with these or the long names of the command line.

    Raises
    ------
    RequestError
        If the file cannot be read, is no TOML, or has an unknown key.
    """
    try:
        document = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        what = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise RequestError(f"{path}: {what}; expected a TOML file of build options, such as seed = 1") from None
    options = {name.replace("-", "_"): value for name, value in document.items()}
    unknown = sorted(options.keys() - ARGUMENTS.keys())
    if unknown:
        known = ", ".join(flag(name).removeprefix("--") for name in ARGUMENTS)
        raise RequestError(f"{path}: unknown option {unknown[0]!r}; expected one of {known}")
    return options


def write_options(options: BuildOptions) -> str:
    """Return the options that differ from their defaults as TOML, without those of one run."""
    lines = ["# options of a build: rephase build M.csv CORPUS --config FILE"]
    for one in fields(options):
        value = getattr(options, one.name)
        if value != one.default and one.name not in _ONCE:
            lines.append(f"{flag(one.name).removeprefix('--')} = {_toml(value)}")
    return "\n".join(lines) + "\n"


def note_options(root: str, options: BuildOptions, token: str = "") -> None:
    """Write the options of a build beside its corpus, in the folder that only its owner reads."""
    open_run_folder(root, token).put(_KEY, without_secrets(write_options(options)).encode())


def _toml(value: object) -> str:
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    if isinstance(value, tuple | list):
        return f"[{', '.join(_toml(one) for one in value)}]"
    return json.dumps(str(Path(value).absolute()) if isinstance(value, Path) else str(value), ensure_ascii=False)
