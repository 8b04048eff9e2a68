"""The files that `slurm:CONFIG` and `ssh:CONFIG` name: TOML tables, checked key by key."""

from __future__ import annotations

import tomllib
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from rephase.cluster.errors import ClusterError


class _Config(Protocol):
    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


C = TypeVar("C", bound=_Config)

_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false", tuple: "a list of texts"}


def read_config(path: str, kind: type[C], spec: str) -> C:
    """Read a TOML file into a dataclass whose fields are text, numbers, flags or tuples of text.

    Parameters
    ----------
    path
        Of the file.
    kind
        The dataclass; a field without a default must be given.
    spec
        The value of `--cluster`, for messages.

    Raises
    ------
    ClusterError
        All that is wrong with the file, a line each.
    """
    try:
        document = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ClusterError(f"--cluster {spec}: cannot read {path}: {error}; expected a TOML file") from None
    except tomllib.TOMLDecodeError as error:
        raise ClusterError(f"--cluster {spec}: {path}: not TOML: {error}") from None
    known = {field.name: field for field in fields(kind)}
    faults = [f"{path}: unknown key {key}; expected {', '.join(known)}" for key in document if key not in known]
    values = {}
    for name, field in known.items():
        if name in document:
            values[name] = _value(path, name, document[name], field, faults)
        elif field.default is MISSING:
            faults.append(f"{path}: {name} is missing")
    if faults:
        raise ClusterError("\n".join([f"--cluster {spec}:", *(f"  {fault}" for fault in faults)]))
    try:
        return kind(**values)
    except ClusterError as error:
        raise ClusterError(f"--cluster {spec}: {path}: {error}") from None


def _value(path: str, name: str, value: Any, field: Field[Any], faults: list[str]) -> Any:  # noqa: ANN401
    wanted = next(kind for word, kind in _KINDS.items() if str(field.type).startswith(word))
    if wanted is tuple and isinstance(value, list) and all(isinstance(one, str) for one in value):
        return tuple(value)
    right = isinstance(value, (int, float) if wanted is float else wanted) and isinstance(value, bool) == (
        wanted is bool
    )
    if not right:
        faults.append(f"{path}: {name} is {value!r}; expected {_WORDS[wanted]}")
    return value


_KINDS: dict[str, type] = {"str": str, "int": int, "float": float, "bool": bool, "tuple": tuple}
