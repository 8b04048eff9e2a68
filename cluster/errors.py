"""The one error of this package, and other errors in one line."""

from __future__ import annotations

from rephase.errors import RephaseError


class ClusterError(RephaseError):
    """There is no cluster to work on; the message says what was asked, what was found and how to mend it."""


def first_line(error: Exception) -> str:
    """Give the first line of an error's text, its name where it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]
