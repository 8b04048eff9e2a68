"""Pieces of a page: every text is escaped here, so that no value of a corpus can become markup."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from html import escape as _escape

import numpy as np
from numpy.typing import NDArray

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fbfaf7; --card: #ffffff; --ink: #1d2129; --soft: #5b6270; --line: #e0ddd5; --accent: #0b6b74;
  --good: #1a6b3c; --good-soft: #e2f1e7; --bad: #a3241c; --bad-soft: #fbe6e3; --note: #7a5300; --note-soft: #fbf0d6;
  --bar: #8bbcc1; --frame: #0d0f12;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14161a; --card: #1c1f25; --ink: #e7e8ea; --soft: #a3a9b5; --line: #31353e; --accent: #6fc3cb;
    --good: #7fd3a0; --good-soft: #173424; --bad: #ff9d92; --bad-soft: #40201c; --note: #e9c46a; --note-soft: #3a2f14;
    --bar: #2f6d74; --frame: #0a0b0d;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
}
main, header > div, footer > div { max-width: 74rem; margin: 0 auto; padding: 0 1.5rem; }
header { padding: 2.5rem 0 1rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; margin: 3rem 0 .3rem; padding-top: 1rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 0 0 .4rem; overflow-wrap: anywhere; }
p { margin: .4rem 0 .8rem; max-width: 46rem; }
.soft, figcaption, caption { color: var(--soft); }
a { color: var(--accent); }
nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; margin: 1rem 0 0; padding: 0; }
code { font: .86em/1.4 ui-monospace, "SF Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
.state { display: inline-block; padding: .12rem .7rem; border-radius: 1rem; font-size: .9rem; font-weight: 600; }
.state.good { background: var(--good-soft); color: var(--good); }
.state.bad { background: var(--bad-soft); color: var(--bad); }
.state.note { background: var(--note-soft); color: var(--note); }
dl.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .8rem; margin: 1.4rem 0 0; }
dl.tiles > div { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: .7rem .9rem; }
dl.tiles dt { color: var(--soft); font-size: .85rem; }
dl.tiles dd { margin: 0; font-size: 1.45rem; font-weight: 600; line-height: 1.25; }
dl.tiles dd small { display: block; font-size: .8rem; font-weight: 400; color: var(--soft); }
.columns { display: grid; grid-template-columns: repeat(auto-fill, minmax(19rem, 1fr)); gap: 1rem 2rem; }
.scroll { overflow-x: auto; }
.scroll.narrow { max-width: 46rem; }
table { border-collapse: collapse; width: 100%; font-size: .93rem; margin: .7rem 0; }
caption { text-align: left; font-weight: 600; padding: .3rem 0; }
caption.unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
th, td { text-align: left; vertical-align: top; padding: .3rem .9rem .3rem 0; border-bottom: 1px solid var(--line); }
thead th { color: var(--soft); font-weight: 500; font-size: .85rem; white-space: nowrap; }
tbody th { font-weight: 500; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.bar { width: 30%; padding-right: 0; vertical-align: middle; }
td.bar span { display: block; height: .6rem; min-width: 2px; border-radius: .15rem; background: var(--bar); }
.volume {
  background: var(--card); border: 1px solid var(--line); border-radius: .7rem; padding: 1rem 1.2rem; margin: 1rem 0;
}
.volume > p { margin: 0 0 .8rem; max-width: none; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(12.5rem, 44%), 1fr)); gap: 1rem; }
figure { margin: 0; }
.frame {
  aspect-ratio: 1; display: flex; align-items: center; justify-content: center; background: var(--frame);
  border-radius: .3rem; overflow: hidden;
}
.frame img { image-rendering: pixelated; min-width: 4px; min-height: 4px; display: block; }
.frame.plain { background: none; color: var(--soft); }
.frame.plain svg { width: 100%; height: 100%; }
figcaption { font-size: .85rem; margin-top: .35rem; }
figcaption b { color: var(--ink); font-weight: 600; }
.legend { display: flex; gap: 1.2rem; align-items: center; flex-wrap: wrap; margin: .8rem 0; }
.legend svg { width: 9.5rem; height: 7.5rem; flex: none; }
.legend p { flex: 1 1 20rem; margin: 0; }
.fault { background: var(--bad-soft); color: var(--bad); border-radius: .3rem; padding: .5rem .8rem; }
footer { color: var(--soft); font-size: .88rem; margin: 3rem 0 2.5rem; }
footer > div { border-top: 1px solid var(--line); padding-top: 1rem; }
@media print { .volume { break-inside: avoid; } }
""".strip()


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
        Markup('<meta name="generator" content="rephase report">'),
        element("title", title),
        element("style", Markup(STYLE)),
    )
    return "<!DOCTYPE html>\n" + element("html", head, element("body", join(body)), lang="en") + "\n"
