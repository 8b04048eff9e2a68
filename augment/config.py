"""Configurations: TOML files and mappings, checked against frozen dataclasses.

A configuration is a plain dataclass. Types and the annotations below define the values of each key; constraints between
keys are checked in `__post_init__` by raising `ValueError`. The docstring under a field describes its key.
"""

from __future__ import annotations

import difflib
import functools
import json
import tomllib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_args, get_type_hints

from annotated_types import Ge, Gt, Le

from rephase.errors import RephaseError, RequestError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from pydantic import TypeAdapter
    from pydantic_core import ErrorDetails

    T = TypeVar("T", bound=DataclassInstance)

LARGEST = 2**31 - 1
Count = Annotated[int, Ge(1), Le(LARGEST)]
"""A whole number of 1 or more."""
Whole = Annotated[int, Ge(0), Le(LARGEST)]
"""A whole number of 0 or more."""
Positive = Annotated[float, Gt(0), Le(1e30)]
"""A finite number above 0."""
NonNegative = Annotated[float, Ge(0), Le(1e30)]
"""A finite number of 0 or more."""
Share = Annotated[float, Ge(0), Le(1)]
"""A number from 0 to 1."""
_EXPECTED = {
    "bool_type": "true or false",
    "float_type": "a number",
    "int_type": "a whole number",
    "path_type": "a path between quotes",
    "string_type": "text between quotes",
    "tuple_type": "a list",
}
"""Messages by pydantic's error type, in the terms of TOML."""


class ConfigError(RephaseError):
    """Values do not fit a dataclass; `problems` has one text for each, as `section.key: found ...; expected ...`."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def read_config(path: str | PathLike[str], kind: type[T], error: type[RephaseError] = RequestError) -> T:
    """Read a TOML file into a dataclass; a relative `Path` at its top level is relative to the file.

    Parameters
    ----------
    path
        TOML file.
    kind
        Dataclass; a field without a default must be given.
    error
        Exception class to raise.

    Raises
    ------
    RephaseError
        An exception of class `error`: the file cannot be read, is not TOML, or is invalid; all problems, one per line.
    """
    path = Path(path)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as reason:
        raise error(f"{path}: cannot be read ({reason.strerror}); expected a TOML file") from reason
    except ValueError as reason:
        raise error(f"{path}: not TOML ({reason}); expected key = value and [section] lines") from reason
    try:
        config = from_mapping(values, kind)
    except ConfigError as reason:
        raise error("\n".join(f"{path}: {problem}" for problem in reason.problems)) from None
    given = {field.name: getattr(config, field.name) for field in fields(config)}
    return replace(
        config, **{name: (path.parent / one).resolve() for name, one in given.items() if isinstance(one, Path)}
    )


def from_mapping(values: Mapping[str, Any], kind: type[T], *, allow_unknown: bool = False) -> T:
    """Check a mapping of JSON or TOML values and return it as a dataclass.

    Parameters
    ----------
    values
        Keys and values; sections are mappings.
    kind
        Dataclass; its fields may be dataclasses.
    allow_unknown
        Whether keys without a field are ignored.

    Raises
    ------
    ConfigError
        If it is invalid; the message has all problems.
    """
    from pydantic import ValidationError

    # in JSON mode, strict checks accept a list for a tuple and text for a path, but not "3" for a number
    try:
        config: T = _adapter(kind, allow_unknown).validate_json(json.dumps(values, default=str), strict=True)
    except ValidationError as error:
        raise ConfigError([_problem(kind, one) for one in error.errors(include_url=False)]) from None
    except RecursionError:
        raise ConfigError(["found values nested too deeply; expected tables of a few levels"]) from None
    return config


def schema(kind: type[DataclassInstance]) -> dict[str, Any]:
    """Return the JSON schema of a configuration; an editor completes and checks a TOML file by it."""
    document = _adapter(kind, False).json_schema()
    definitions = document["$defs"]
    own: dict[str, Any] = definitions.pop(kind.__name__)
    for base in kind.__mro__[1:]:  # pydantic reads the texts under a class's own fields only
        for name, inherited in schema(base)["properties"].items() if is_dataclass(base) else ():
            if "description" in inherited:
                own["properties"][name].setdefault("description", inherited["description"])
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return dialect | own | ({"$defs": definitions} if definitions else {})


@functools.cache
def _adapter(kind: type[Any], allow_unknown: bool) -> TypeAdapter[Any]:
    from pydantic import ConfigDict, TypeAdapter

    config = ConfigDict(
        extra="ignore" if allow_unknown else "forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )
    # pydantic rejects `config` for a bare dataclass, but accepts it inside a union, for nested dataclasses too
    optional: Any = kind | None
    return TypeAdapter(optional, config=config)


def _problem(kind: type[DataclassInstance], error: ErrorDetails) -> str:
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error["loc"]).removeprefix(".")
    where = f"{key}: " if key else ""
    if error["type"] == "json_invalid":  # values that JSON cannot represent, such as a lone surrogate
        return error["msg"]
    if error["type"] == "missing":
        return f"{where}not found; add it"
    if error["type"] == "unexpected_keyword_argument":
        known = _keys(kind, error["loc"][:-1])
        near = difflib.get_close_matches(str(error["loc"][-1]), known, n=1)
        return f"{where}unknown key; " + (f"did you mean {near[0]}?" if near else f"expected {', '.join(known)}")
    if error["type"] == "value_error":
        return f"{where}{error['ctx']['error']}"
    found = json.dumps(error["input"])
    found = found if len(found) <= 60 else f"{found[:60]}..."
    if error["type"] in ("dataclass_type", "dict_type"):
        return f"{where}found {found}; expected a section [{key}]"
    expected = _EXPECTED.get(error["type"], error["msg"].removeprefix("Input should be "))
    return f"{where}found {found}; expected {expected}"


def _keys(kind: Any, path: tuple[str | int, ...]) -> list[str]:  # noqa: ANN401  # a type as it appears in annotations
    for part in path:
        hint = get_type_hints(kind).get(str(part))
        kind = next((one for one in (hint, *get_args(hint)) if is_dataclass(one)), None)
    return [field.name for field in fields(kind)] if kind is not None else []
