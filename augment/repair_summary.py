"""What a repair found and did, in numbers and in words."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from augment.runlog import Failure
from augment.summary import listed
from augment.verify import fault_lines

_SHOWN = 50


@dataclass
class RepairSummary:
    """What a repair found and did.

    Attributes
    ----------
    num_volumes
        Committed volumes that were looked at.
    faults
        As `verify` lists them.
    damaged
        Volumes that are to be made again.
    restored, replaced
        Of these: byte-equal to what was lost; made anew as another volume, because that was accepted or nothing was
        recorded to compare with.
    failed
        Volumes that could not be made again, with the reason.
    documents
        Documents of the corpus itself that were written anew.
    strays, removed
        What belongs to nothing in the corpus; what of it was removed.
    dry_run, interrupted, stopped
        How it ended; as in `BuildSummary`.
    """

    corpus: str
    num_volumes: int = 0
    faults: list[tuple[str, str]] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    restored: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    failed: dict[str, Failure] = field(default_factory=dict)
    documents: list[str] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    dry_run: bool = False
    interrupted: bool = False
    stopped: str | None = None

    @property
    def exit_status(self) -> int:
        """0 nothing is wrong any more, 1 something is, 130 interrupted."""
        if self.interrupted:
            return 130
        if self.dry_run:
            return 1 if self.faults else 0
        left = set(self.damaged) - {*self.restored, *self.replaced}
        return 1 if left or self.stopped or len(self.removed) < len(self.strays) else 0

    def to_json(self) -> dict[str, Any]:
        """Give all of it as a JSON object."""
        return {**asdict(self), "exit_status": self.exit_status}

    def lines(self) -> list[str]:
        """Say it in words."""
        lines = fault_lines(self.faults)
        if self.dry_run:
            lines.append(f"would make {len(self.damaged) - len(self.failed)} volumes again{self._written('write')}")
        elif self.faults:
            lines.append(
                f"{len(self.restored)} volumes made again, byte-equal to what was lost{self._written('wrote')}"
            )
        if self.replaced:
            lines.append(
                f"{len(self.replaced)} volumes made as other ones than before: {', '.join(self.replaced[:_SHOWN])}"
            )
        lines += listed(self.failed, "cannot be made again; the reason of each:")
        if self.strays:
            what = "removed" if self.removed else "left in place; --remove-strays removes them"
            lines.append(f"{len(self.strays)} objects that belong to nothing in the corpus: {what}")
        if self.stopped:
            lines.append(f"stopped: {self.stopped}")
        looked = f"{self.num_volumes} volumes looked at, {len(self.faults) or 'no'} faults"
        return [*lines, f"{self.corpus}: {looked}{self._say_end()}"]

    def _written(self, verb: str) -> str:
        return f"; {verb} {', '.join(self.documents)}" if self.documents else ""

    def _say_end(self) -> str:
        if not self.faults:
            return ""
        return {0: ", all of them mended", 130: "; interrupted"}.get(
            self.exit_status, "; nothing was changed" if self.dry_run else "; not all of them mended"
        )
