"""The page of an evaluation: its tables, curves, and real and generated phases side by side."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rephase.evaluation.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, make_charts
from rephase.evaluation.comparison import Evaluation
from rephase.evaluation.tables import Section, headline, sections
from rephase.pages import render
from rephase.pictures import Picture, colour_wheel, picture_magnitude, picture_phase

CHART_SIZE = {"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": RIGHT, "top": TOP, "bottom": BOTTOM}


@dataclass(frozen=True)
class Example:
    """One real slice `(height width)` with its phases, real and generated, by name."""

    name: str
    magnitude: NDArray[np.float32]
    support: NDArray[np.bool_]
    phasors: Mapping[str, NDArray[np.complex64]]
    spacing_mm: tuple[float, float]

    @property
    def aspect(self) -> float:
        """True width divided by height."""
        height, width = self.magnitude.shape
        return float(width * self.spacing_mm[1] / (height * self.spacing_mm[0]))

    @property
    def pictures(self) -> list[tuple[str, Picture]]:
        """The magnitude and the phases, with their names."""
        phases = ((name, (self.magnitude * phasor).astype(np.complex64)) for name, phasor in self.phasors.items())
        shown = [(name, picture_phase(image, self.support)) for name, image in phases]
        return [("magnitude", picture_magnitude(self.magnitude)), *shown]


def make_page(result: Evaluation, examples: Sequence[Example]) -> str:
    """Return the page as HTML without external resources."""
    return render(
        "evaluation.html",
        headline=headline(result),
        charts=make_charts(result),
        size=CHART_SIZE,
        examples=examples,
        wheel=colour_wheel(),
        tables=[section_table(one) for one in sections(result)],
        now=time.time(),
    )


def section_table(one: Section) -> dict[str, object]:
    """Return a section of the Markdown report as plain text, with its columns of numbers."""
    columns = zip(*one.rows, strict=True)
    return {
        "title": one.title,
        "words": one.words.replace("**", "").replace("`", ""),
        "header": one.header,
        "rows": [[cell.replace("**", "") for cell in row] for row in one.rows],
        "numbers": [i for i, column in enumerate(columns) if i and all(_is_number(cell) for cell in column)],
    }


def _is_number(cell: str) -> bool:
    try:
        float(cell.removesuffix(" %").replace(" to ", "") if cell != "-" else "0")
    except ValueError:
        return False
    return True
