"""Pieces of a page: every text is escaped here, so that no value of a corpus can become markup."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from html import escape as _escape

import numpy as np
from numpy.typing import NDArray

from augment.report.style import STYLE

_VOID = ("img",)


class Markup(str):
    """Text that is markup already; everything else is escaped where it is put in."""

    __slots__ = ()


def text(value: object) -> Markup:
    """Escape a value, unless it is markup."""
    return value if isinstance(value, Markup) else Markup(_escape(str(value), quote=True))


def element(name: str, *children: object, **attributes: object) -> Markup:
    """Make an element; `class_` stands for the attribute class, `_` in other names for `-`."""
    shown = "".join(f' {key.rstrip("_").replace("_", "-")}="{text(value)}"' for key, value in attributes.items())
    inside = "".join(text(child) for child in children)
    return Markup(f"<{name}{shown}>" if name in _VOID else f"<{name}{shown}>{inside}</{name}>")


def join(parts: Iterable[object]) -> Markup:
    """Put pieces one after the other."""
    return Markup("\n".join(text(part) for part in parts))


def code(value: object) -> Markup:
    """Show a hash, a name or a command as such."""
    return element("code", value)


def table(
    caption: str,
    header: Sequence[str],
    rows: Iterable[Sequence[object]],
    numbers: Collection[int] = (),
    *,
    show_caption: bool = True,
    narrow: bool = False,
) -> Markup:
    """Make a table; the first cell of a row names it. `numbers` are the columns that are set to the right."""

    def cell(column: int, value: object, head: str = "") -> Markup:
        attributes = {"class_": "number"} if column in numbers else {}
        if head:
            return element("th", value, scope=head, **attributes)
        return value if isinstance(value, _Cell) else element("td", value, **attributes)

    title = element("caption", caption, **({} if show_caption else {"class_": "unseen"}))
    head = element("thead", element("tr", *(cell(i, name, "col" if name else "") for i, name in enumerate(header))))
    lines = [element("tr", *(cell(i, value, "" if i else "row") for i, value in enumerate(values))) for values in rows]
    return element(
        "div", element("table", title, head, element("tbody", *lines)), class_="scroll narrow" if narrow else "scroll"
    )


class _Cell(Markup):
    """A whole table cell."""

    __slots__ = ()


def bar(part: float) -> Markup:
    """Make a cell with a bar for a part between 0 and 1; the number beside it says the same in words."""
    inside = element("span", style=f"width:{100 * part:.1f}%")
    return _Cell(element("td", inside, class_="bar", aria_hidden="true"))


def tiles(entries: Iterable[tuple[str, str, str]]) -> Markup:
    """Show a few large numbers: (name, value, remark)."""
    boxes = []
    for name, value, remark in entries:
        small = element("small", remark) if remark else ""
        boxes.append(element("div", element("dt", name), element("dd", value, small)))
    return element("dl", *boxes, class_="tiles")


def section(anchor: str, title: str, *children: object) -> Markup:
    """Make a section that the page's contents can point to."""
    return element(
        "section", element("h2", title, id=f"{anchor}-title"), *children, id=anchor, aria_labelledby=f"{anchor}-title"
    )


def histogram(counts: NDArray[np.int64], colours: Sequence[str], label: str) -> Markup:
    """Draw counts over the phase from -pi to pi, each bar in the colour of its phase, as SVG."""
    width, height, base, margin = 256, 256, 226, 8
    tallest = max(int(counts.max()), 1)
    step = (width - 2 * margin) / len(counts)
    bars = []
    for number, (count, colour) in enumerate(zip(counts.tolist(), colours, strict=True)):
        rise = (base - 12) * count / tallest
        size = {"width": f"{step + 0.1:.2f}", "height": f"{rise:.2f}"}
        bars.append(element("rect", x=f"{margin + number * step:.2f}", y=f"{base - rise:.2f}", fill=colour, **size))
    ticks = []
    for part, name in enumerate(("−π", "−π/2", "0", "π/2", "π")):
        anchor = {0: "start", 4: "end"}.get(part, "middle")
        position = {"x": margin + (width - 2 * margin) * part // 4, "y": base + 20}
        ticks.append(element("text", name, **position, text_anchor=anchor, font_size=13, fill="currentColor"))
    axis = element("line", x1=margin, x2=width - margin, y1=base + 0.5, y2=base + 0.5, stroke="currentColor")
    return element("svg", *bars, axis, *ticks, viewBox=f"0 0 {width} {height}", role="img", aria_label=label)


def document(title: str, *body: object) -> str:
    """Make the whole page."""
    head = element(
        "head",
        Markup('<meta charset="utf-8">'),
        Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Markup('<meta name="generator" content="phasegen report">'),
        element("title", title),
        element("style", Markup(STYLE)),
    )
    return "<!DOCTYPE html>\n" + element("html", head, element("body", join(body)), lang="en") + "\n"
