"""The error of this package."""

from __future__ import annotations

from rephase.errors import RequestError


class ClusterError(RequestError):
    """No usable cluster. The message names the request, the problem found and the fix."""
