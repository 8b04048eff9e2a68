"""HTML pages from the templates of this package; every value is escaped, so a corpus cannot inject markup."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def render(template: str, /, **values: object) -> str:
    """Render a template of `augment/templates` with these values."""
    return _ENVIRONMENT.get_template(template).render(values)


def render_macro(template: str, macro: str, *values: object) -> str:
    """Render one macro of a template, for a part of a page."""
    return str(getattr(_ENVIRONMENT.get_template(template).module, macro)(*values))


def counted(number: int, noun: str) -> str:
    """Format a number with its noun: 1 slice, 2 slices."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def format_moment(moment: float) -> str:
    """Format a time in seconds since 1970 as a date and time, UTC."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M UTC")


_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters |= {"counted": counted, "moment": format_moment}
