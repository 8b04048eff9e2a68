"""Format and parse sizes, time spans, counts and errors. Without imports from the package, for a fast start."""

from __future__ import annotations

import re

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+(::|://)").match
_UNITS = {"": 1, "B": 1}
_UNITS |= {letter + rest: 1000**n for n, letter in enumerate("KMGT", 1) for rest in ("", "B")}
_UNITS |= {f"{letter}IB": 1024**n for n, letter in enumerate("KMGT", 1)}


def format_bytes(num_bytes: float) -> str:
    """Format a size with a decimal unit (kB = 1,000 bytes)."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.3g} PB"


def format_seconds(seconds: float) -> str:
    """Format a time span in seconds, minutes, hours or days."""
    if seconds < 100:
        return f"{seconds:.3g} s"
    minutes = seconds / 60
    if minutes < 100:
        return f"{minutes:.0f} min"
    hours = minutes / 60
    return f"{hours:.0f} h" if hours < 100 else f"{hours / 24:.0f} days"


def printable(text: str) -> str:
    """Return a text with every control character replaced by `?`.

    Parts of messages originate from damaged files, and messages are shown on terminals and web pages.
    """
    return "".join(mark if mark.isprintable() else "?" for mark in text)


def one_line(error: BaseException | str, longest: int = 200) -> str:
    """Format an error as one line of at most `longest` characters: its text, or its class name without one."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def is_url(location: str) -> bool:
    """Check whether a location is a URL, opened by fsspec, rather than a path of the file system."""
    return _URL(location) is not None


def install_hint(extra: str) -> str:
    """Return how to install an optional extra of this distribution, as the end of a message."""
    from importlib.metadata import packages_distributions

    package = __name__.partition(".")[0]
    name = next(iter(packages_distributions().get(package, ())), package)
    return f"install the extra {extra} of {name} (in a checkout: pip install '.[{extra}]')"


def parse_count(text: str) -> int:
    """Parse an integer of 1 or more; ValueError for anything else."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise ValueError(f"{text!r}; expected a whole number of 1 or more")
    return int(text)


def parse_size(text: str) -> int:
    """Parse a number of bytes with a unit, such as 8GB or 500MiB; ValueError for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-zA-Z]*)", text.strip())
    if match is None or match[2].upper() not in _UNITS or float(match[1]) == 0:
        raise ValueError(f"{text!r}; expected a size such as 8GB or 500MiB")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def parse_names(text: str) -> tuple[str, ...]:
    """Parse comma-separated names; ValueError if there are none."""
    found = tuple(name.strip() for name in text.split(",") if name.strip())
    if not found:
        raise ValueError(f"{text!r}; expected names separated by commas")
    return found
