"""The page of an evaluation: its tables, and the phases side by side."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rephase.evaluation.comparison import Evaluation
from rephase.evaluation.tables import Section, headline, sections
from rephase.pictures import Picture, colour_wheel, picture_magnitude, picture_phase
from rephase.reports.html import Markup, document, element, section, table


@dataclass(frozen=True)
class Example:
    """One real slice `(height width)` with its phases, real and generated, by name."""

    name: str
    magnitude: NDArray[np.float32]
    support: NDArray[np.bool_]
    phasors: Mapping[str, NDArray[np.complex64]]
    spacing_mm: tuple[float, float]


def make_page(result: Evaluation, examples: Sequence[Example]) -> str:
    """Write the whole page; it needs no outside resource."""
    title = "Generated against real phase"
    head = element("header", element("div", element("h1", title), element("p", headline(result), class_="soft")))
    body = element("main", _pictures(examples), *(_table(number, one) for number, one in enumerate(sections(result))))
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    foot = element("footer", element("div", element("p", f"Made by rephase evaluate phase, {when}.")))
    return document(f"{title} - rephase", head, body, foot)


def _table(number: int, one: Section) -> Markup:
    words = element("p", one.words.replace("**", "").replace("`", ""))
    if not one.rows:
        return section(f"table-{number}", one.title, words)
    columns = zip(*one.rows, strict=True)
    numbers = [i for i, column in enumerate(columns) if i and all(_is_number(cell) for cell in column)]
    rows = [[cell.replace("**", "") for cell in row] for row in one.rows]
    return section(f"table-{number}", one.title, words, table(one.title, one.header, rows, numbers, show_caption=False))


def _is_number(cell: str) -> bool:
    try:
        float(cell.removesuffix(" %").replace(" to ", "") if cell != "-" else "0")
    except ValueError:
        return False
    return True


def _pictures(examples: Sequence[Example]) -> Markup:
    words = (
        "One slice of each session: the magnitude, its real phase, and what a generator made of the magnitude alone. "
        "A generated phase need not be the real one; it should be of its kind. Colours run once around the circle "
        "(below), brightest at 0 and darkest at plus or minus pi; they are faded outside the object."
    )
    wheel = element("img", src=colour_wheel().uri, alt="Colour circle of the phase, 0 to the right", width=120)
    legend = element("div", wheel, class_="legend")
    return section("pictures", "Pictures", element("p", words), legend, *(_example(one) for one in examples))


def _example(one: Example) -> Markup:
    height, width = one.magnitude.shape
    aspect = width * one.spacing_mm[1] / (height * one.spacing_mm[0])
    figures = [_figure("magnitude", picture_magnitude(one.magnitude), one.name, aspect)]
    figures += [
        _figure(label, picture_phase((one.magnitude * phasor).astype(np.complex64), one.support), one.name, aspect)
        for label, phasor in one.phasors.items()
    ]
    return element("article", element("h3", one.name), element("div", *figures, class_="pictures"), class_="volume")


def _figure(title: str, picture: Picture, name: str, aspect: float) -> Markup:
    """Put a picture into a square frame, at its true proportions."""
    size = f"width:{100 * min(aspect, 1):.3f}%;height:{100 * min(1 / aspect, 1):.3f}%"
    image = element("img", src=picture.uri, alt=f"{title} of {name}", style=size)
    return element("figure", element("div", image, class_="frame"), element("figcaption", element("b", title)))
