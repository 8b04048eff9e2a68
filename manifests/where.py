"""Select rows of a manifest by split, and by conditions on its cells."""

from __future__ import annotations

import math
import operator
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from rephase.errors import RequestError
from rephase.facts import FACTS
from rephase.manifests.manifest import PATH_COLUMNS, Manifest
from rephase.manifests.record import OPTIONAL_COLUMNS, ManifestRow

_COLUMNS = ("volume_id", *(name for name in OPTIONAL_COLUMNS if name not in (*PATH_COLUMNS, "spacing_mm")))
_NUMBERS = {
    "slice_axis", "echo", "frame", "replicas", "num_slices", "height", "width",
    *(name for name, fact in FACTS.items() if fact.kind == "number"),
}  # fmt: skip
_CONDITION = re.compile(r"\s*(\w+)\s*(<=|>=|!=|==?|<|>)\s*(.*?)\s*", re.DOTALL)
_ORDERS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


@dataclass(frozen=True)
class Condition:
    """A column, one of `=`, `!=`, `<`, `<=`, `>`, `>=`, and the values: several, of which one must match, for `=`."""

    column: str
    order: str
    values: tuple[str, ...]

    def holds(self, row: ManifestRow) -> bool:
        """Check a row; an empty cell is the empty text, and no number."""
        found = getattr(row, self.column)
        if self.order in _ORDERS:
            return found is not None and _ORDERS[self.order](float(found), float(self.values[0]))
        if self.column in _NUMBERS:
            matches = any((found is None) if not one else found == float(one) for one in self.values)
        else:
            matches = ("" if found is None else str(found)) in self.values
        return matches == (self.order == "=")


def parse_where(text: str) -> tuple[Condition, ...]:
    """Parse conditions joined by `and`, such as `contrast=T1,T2 and field_t>=1.5`; values may be in quotes.

    Raises
    ------
    ValueError
        If a condition has another form, names no column, or compares a text.
    """
    conditions = []
    for part in re.split(r"\s+and\s+", text.strip(), flags=re.IGNORECASE):
        match = _CONDITION.fullmatch(part)
        if match is None:
            raise ValueError(
                f"{part!r} is no condition; expected COLUMN=VALUE, such as 'contrast=T1,T2 and field_t>=1.5'"
            )
        column, order, value = match.groups()
        if column not in _COLUMNS:
            raise ValueError(f"{column!r} is no column for a condition; expected one of {', '.join(_COLUMNS)}")
        order = order[:1] if order == "==" else order
        values = (value,) if order in _ORDERS else tuple(one.strip() for one in value.split(","))
        values = tuple(_unquoted(one) for one in values)
        if order in _ORDERS and column not in _NUMBERS:
            raise ValueError(f"{column} is a text; expected = or !=; found {order}")
        if column in _NUMBERS:
            for one in values:
                _check_number(column, one, empty=order not in _ORDERS)
        conditions.append(Condition(column, order, values))
    return tuple(conditions)


def _unquoted(value: str) -> str:
    """Take a value out of its quotes; an operator in a bare one is a slip, by which `!=` would hold for every row."""
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        return value[1:-1]
    if re.search(r"[<>=!'\"]", value):
        raise ValueError(f"{value!r} is no value of a condition; expected 'and' between conditions; correct it")
    return value


def _check_number(column: str, text: str, empty: bool) -> None:
    try:
        if math.isnan(float(text or ("0" if empty else "nothing"))):
            raise ValueError
    except ValueError:
        raise ValueError(f"{column} is compared with {text!r}; expected a number") from None


def rows_where(rows: Iterable[ManifestRow], where: str | None) -> list[ManifestRow]:
    """Return the rows for which all conditions hold; errors as in `parse_where`."""
    conditions = () if where is None else parse_where(where)
    return [row for row in rows if all(one.holds(row) for one in conditions)]


def select(manifest: Manifest, splits: tuple[str, ...] = (), where: str | None = None) -> Manifest:
    """Return the rows of some splits for which all conditions hold, in their order.

    Raises
    ------
    RequestError
        If there are none; one line with what the manifest has.
    """
    if not splits and where is None:
        return manifest
    conditions = () if where is None else parse_where(where)
    kept, found = [], Counter[str]()
    for number, row in enumerate(manifest):
        found[row.split or "(none)"] += 1
        if (not splits or row.split in splits) and all(one.holds(row) for one in conditions):
            kept.append(number)
    if not kept:
        asked = [*([f"--split {','.join(splits)}"] if splits else []), *([f"--where {where!r}"] if where else [])]
        present = ", ".join(f"{name} ({count})" for name, count in found.most_common(5))
        raise RequestError(
            f"{manifest.path}: no row for {' and '.join(asked)}; expected one or more of {len(manifest)} rows, of the "
            f"splits {present}; correct it"
        )
    return manifest.take(kept)
