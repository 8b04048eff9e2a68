"""Collecting what is wrong with a manifest, so that all of it can be mended in one go."""

from __future__ import annotations

from rephase.errors import RephaseError

_KEPT = 1000
_PRINTED = 50


class ManifestError(RephaseError):
    """A manifest is wrong as a whole; nothing was started.

    Attributes
    ----------
    faults
        `file:line: what, expected, mend`, by line; at most the first 1,000 that were found.
    total
        How many there are.
    """

    def __init__(self, faults: list[str], total: int | None = None) -> None:
        self.faults = faults
        self.total = len(faults) if total is None else total
        lines = faults[:_PRINTED]
        if self.total > len(lines):
            lines = [*lines, f"... and {self.total - len(lines)} more faults"]
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[type[ManifestError], tuple[list[str], int]]:
        """Keep the faults when the error travels between processes."""
        return type(self), (self.faults, self.total)


class Faults:
    """Faults of one file as they are found."""

    def __init__(self, path: str) -> None:
        self.total = 0
        self._path = path
        self._found: list[tuple[int, str]] = []

    def add(self, line: int, what: str) -> None:
        """Note what is wrong with a line."""
        self.total += 1
        if len(self._found) < _KEPT:
            self._found.append((line, what))

    def raise_if_any(self) -> None:
        """Raise a `ManifestError` with all faults in the order of their lines, if there are any."""
        if self.total:
            found = sorted(self._found, key=lambda fault: fault[0])
            raise ManifestError([f"{self._path}:{line}: {what}" for line, what in found], self.total)
