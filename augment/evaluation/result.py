"""What an evaluation gives, as JSON holds it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rephase.evaluation.classifier import ClassifierResult
from rephase.evaluation.comparison import Difference, Gap, Verdict
from rephase.evaluation.scores import Score


@dataclass(frozen=True)
class Evaluation:
    """An evaluation that ran.

    Attributes
    ----------
    machine
        `rephase.pipeline.environment.machine_facts`.
    settings
        What was asked for, with the versions and hashes of what took part.
    generators
        Label, role, evaluations a slice and identity of each.
    scores, gaps, differences, verdicts, ties
        See `rephase.evaluation.scores` and `rephase.evaluation.comparison`.
    classifier
        None where it was not asked for.
    left_out
        Why rows of the manifest do not take part.
    """

    machine: Mapping[str, Any]
    settings: Mapping[str, Any]
    generators: Sequence[Mapping[str, Any]]
    scores: Sequence[Score]
    gaps: Sequence[Gap] = ()
    differences: Sequence[Difference] = ()
    verdicts: Sequence[Verdict] = ()
    ties: Sequence[str] = ()
    classifier: ClassifierResult | None = None
    left_out: Sequence[str] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """Give all of it as JSON values; what could not be measured is null."""
        plain: dict[str, Any] = _finite(asdict(self))
        return plain


def _finite(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
