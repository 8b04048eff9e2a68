"""The error of a manifest, with all its problems, so that they can be fixed together."""

from __future__ import annotations

from rephase.errors import RephaseError

_KEPT = 1000
_PRINTED = 50


class ManifestError(RephaseError):
    """A manifest is invalid; no work was started.

    Attributes
    ----------
    problems
        `file:line: what was found; expected ...; fix`, by line; at most the first 1,000.
    total
        Number of problems.
    """

    def __init__(self, problems: list[str], total: int | None = None) -> None:
        self.problems = problems
        self.total = len(problems) if total is None else total
        lines = problems[:_PRINTED]
        if self.total > len(lines):
            lines = [*lines, f"... and {self.total - len(lines)} more"]
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[type[ManifestError], tuple[list[str], int]]:
        """Keep the problems when the error is pickled between processes."""
        return type(self), (self.problems, self.total)


class Problems:
    """The problems of one file, collected as they are found."""

    def __init__(self, path: str) -> None:
        self.total = 0
        self._path = path
        self._found: list[tuple[int, str]] = []

    def add(self, line: int, what: str) -> None:
        """Add a problem on a line."""
        self.total += 1
        if len(self._found) < _KEPT:
            self._found.append((line, what))

    def raise_if_any(self) -> None:
        """Raise a `ManifestError` with all problems in the order of their lines, if any."""
        if self.total:
            found = sorted(self._found, key=lambda problem: problem[0])
            raise ManifestError([f"{self._path}:{line}: {what}" for line, what in found], self.total)
