"""The error of this package."""

from __future__ import annotations

from rephase.errors import RequestError


class ClusterError(RequestError):
    """There is no cluster to work on. The message says what was requested, what was found and how to fix it."""
