"""The one error of this package."""

from __future__ import annotations

from rephase.errors import RephaseError


class ClusterError(RephaseError):
    """There is no cluster to work on; the message says what was asked, what was found and how to mend it."""
