"""Sizes and time spans in words. Needs no other module: what only says them loads nothing for it."""

from __future__ import annotations


def format_bytes(num_bytes: float) -> str:
    """Write a size with a decimal unit, as disks are sold."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.3g} PB"


def format_seconds(seconds: float) -> str:
    """Write a time span as one would say it."""
    if seconds < 100:
        return f"{seconds:.3g} s"
    minutes = seconds / 60
    if minutes < 100:
        return f"{minutes:.0f} min"
    hours = minutes / 60
    return f"{hours:.0f} h" if hours < 100 else f"{hours / 24:.0f} days"


def printable(text: str) -> str:
    """Give a text without control characters: parts come out of damaged files, and it goes to terminals and pages."""
    return "".join(mark if mark.isprintable() else "?" for mark in text)


def one_line(error: BaseException) -> str:
    """Give an error's text as one line of bounded length."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:197]}..."
