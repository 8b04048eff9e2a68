"""The facts of a volume that a manifest or header may state, each defined in one line.

Manifest columns, row hashes, receipt checks, index columns, the attributes and filters of loaders and the attributes of
exported files all follow from `VolumeFacts`. To add a fact, add a line to it and set the field in the readers that can
determine it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rephase.sequences import SEQUENCES

CONTRASTS = ("T1", "T2", "T2star", "PD", "FLAIR", "DWI", "BOLD", "MRA", "SWI", "GRE", "SE", "IR", "ASL", "other")
SPLITS = ("train", "val", "test")

Kind = Literal["text", "number", "triple", "flag"]


@dataclass(frozen=True)
class Fact:
    """How a fact is checked, and where it is stored.

    Attributes
    ----------
    kind
        `text`; a finite `number`; a `triple` of numbers > 0 along (slice, height, width); or a `flag`, true or false.
        None always means unknown.
    meaning
        A few words for documents.
    words
        Permitted values of a text in a manifest; empty: any line of text.
    unit
        Unit of a number or triple.
    may_be_zero
        Whether a number may be 0; it is never negative.
    in_manifest
        Whether it is a manifest column. It then enters the row hash, since it changes the stored data.
    in_receipt
        Whether the receipt of a committed volume contains it.
    in_index
        Whether it is an index column, which loaders provide as an attribute and as a filter.
    in_exports
        Whether exported HDF5 files have it as an attribute.
    always
        Whether receipts, indexes, exports and row hashes include it even if it is unknown, as those of the first
        version do. Leave it False for a new fact, so that bytes and hashes of volumes without the fact do not change.
    """

    kind: Kind
    meaning: str
    words: tuple[str, ...] = ()
    unit: str = ""
    may_be_zero: bool = False
    in_manifest: bool = True
    in_receipt: bool = True
    in_index: bool = True
    in_exports: bool = True
    always: bool = False

    def __post_init__(self) -> None:
        if self.kind == "triple" and self.in_index:
            raise ValueError("an index has no column of triples; expected in_index=False")

    @property
    def expected(self) -> str:
        """Description of the accepted values, for messages."""
        sign = ">=" if self.may_be_zero else ">"
        words = {
            "text": "a string",
            "number": f"{self.unit} {sign} 0",
            "triple": f"three numbers of {self.unit} > 0",
            "flag": "true or false",
        }
        return f"{words[self.kind]} or null"

    def accepts(self, value: object) -> bool:
        """Check whether a JSON value is valid for this fact."""
        match self.kind:
            case _ if value is None:
                return True
            case "text":
                return isinstance(value, str) and value != ""
            case "number":
                return _is_number(value) and (value > 0 or (self.may_be_zero and value == 0))  # type: ignore[operator]
            case "triple":
                return isinstance(value, list) and len(value) == 3 and all(_is_number(one) and one > 0 for one in value)
            case "flag":
                return isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _fact(kind: Kind, meaning: str, **where: Any) -> Any:  # noqa: ANN401 - the default of a field of any type
    return dataclasses.field(default=None, metadata={"fact": Fact(kind, meaning, **where)})


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeFacts:
    """Facts of a volume; None if unknown. Manifest rows, headers and volumes have these fields."""

    split: str | None = _fact("text", "part of the data set", words=SPLITS, always=True)
    anatomy: str | None = _fact("text", "part of the body", always=True)
    contrast: str | None = _fact("text", "contrast", words=CONTRASTS, always=True)
    field_t: float | None = _fact("number", "field strength", unit="tesla", always=True)
    te_ms: float | None = _fact("number", "echo time", unit="milliseconds", may_be_zero=True, always=True)
    sequence: str | None = _fact("text", "family of the pulse sequence", words=SEQUENCES)
    sequence_assumed: str | None = _fact(
        "text", "family guessed from contrast and echo time, where none is stated", words=SEQUENCES, in_manifest=False
    )
    out_of_distribution: float | None = _fact(
        "number",
        "distance from what the weights have seen in training",
        unit="units",
        may_be_zero=True,
        in_manifest=False,
    )
    weights_licence: str | None = _fact("text", "licence of the weights that the phase depends on", in_manifest=False)
    noise_along: float | None = _fact(
        "number", "part of the noise that is added along the object", unit="parts", may_be_zero=True, in_manifest=False
    )
    noise_floor: float | None = _fact(
        "number", "noise that the source had, in stored units", unit="units", may_be_zero=True, in_manifest=False
    )
    prewhitened: bool | None = _fact("flag", "whether the coils have equal and independent noise", in_manifest=False)
    target_noise: str | None = _fact(
        "text", "whether the target has the added noise", words=("clean", "noisy"), in_manifest=False
    )
    readout_start: float | None = _fact(
        "number", "first sampled point of an asymmetric echo", unit="points", may_be_zero=True, in_manifest=False
    )
    elliptical: bool | None = _fact("flag", "whether the corners of k-space are not sampled", in_manifest=False)
    coil_array: str | None = _fact("text", "array of receive coils that was simulated", in_manifest=False)
    licence: str | None = _fact("text", "licence of the source", in_index=False, always=True)


FACTS: dict[str, Fact] = {field.name: field.metadata["fact"] for field in dataclasses.fields(VolumeFacts)}
"""Every fact by its name."""


def facts_where(**properties: object) -> tuple[str, ...]:
    """List the facts that have these properties, such as `facts_where(in_index=True, always=False)`."""
    return tuple(
        name for name, fact in FACTS.items() if all(getattr(fact, key) == value for key, value in properties.items())
    )


def known_facts(*sources: VolumeFacts) -> dict[str, Any]:
    """Return every fact, taken from the first source that has it; None if no source does."""
    found = ((name, (getattr(source, name) for source in sources)) for name in FACTS)
    return {name: next((value for value in values if value is not None), None) for name, values in found}


def hashed_facts(facts: VolumeFacts) -> dict[str, Any]:
    """Return the facts that enter the row hash: always those of the first version, later ones if set."""
    values = {name: getattr(facts, name) for name in facts_where(in_manifest=True)}
    return {name: value for name, value in values.items() if FACTS[name].always or value is not None}


def receipt_facts(known: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts stored in a receipt, as JSON: always those of the first version, later ones if known."""
    kept = {name: known[name] for name in facts_where(in_receipt=True) if FACTS[name].always or known[name] is not None}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in kept.items()}
