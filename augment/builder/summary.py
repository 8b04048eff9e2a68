"""The results of a build and of a repair, as text and as JSON."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from rephase.builder.runlog import Failure
from rephase.corpus.verify import problem_lines
from rephase.pipeline.task import Outcome
from rephase.text import format_bytes, format_seconds

_SHOWN = 20
_NAMED = 5


@dataclass
class BuildSummary:
    """The result of a build.

    Attributes
    ----------
    corpus
        Path or URL of the corpus.
    num_volumes
        Volumes that the manifest requests.
    built, skipped
        Volumes committed in this run; volumes committed before.
    failed, not_retried
        Failures of this run, and failures of earlier runs that were not retried, by volume name.
    foreign
        Volumes that came into the corpus by copying; the index does not list them.
    vanished
        Volumes counted above whose receipt was missing at the end: something else removed them.
    unreadable
        Other volumes of the corpus whose receipts could not be read for the index.
    num_slices, num_bytes
        Totals of the volumes built in this run; bytes of the arrays before compression.
    seconds
        Wall time, excluding the start of the workers.
    interrupted
        True if the user stopped it.
    stopped
        Reason for stopping early, for example a full disk; None if it did not.
    """

    corpus: str
    num_volumes: int = 0
    built: int = 0
    skipped: int = 0
    failed: dict[str, Failure] = field(default_factory=dict)
    not_retried: dict[str, Failure] = field(default_factory=dict)
    vanished: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    num_slices: int = 0
    num_bytes: int = 0
    seconds: float = 0.0
    interrupted: bool = False
    stopped: str | None = None

    @property
    def num_open(self) -> int:
        """Number of volumes not processed."""
        return self.num_volumes - self.built - self.skipped - len(self.failed) - len(self.not_retried)

    @property
    def exit_status(self) -> int:
        """Exit status of the command: 0 complete, 1 volumes are missing, 130 interrupted."""
        if self.interrupted:
            return 130
        wrong = (self.failed, self.not_retried, self.vanished, self.unreadable, self.foreign, self.stopped)
        return 1 if any(wrong) else 0

    def take(self, outcome: Outcome) -> None:
        """Count the outcome of a volume; the caller has the row and adds failures to `failed`."""
        if outcome.status == "built":
            self.built += 1
            self.num_slices += outcome.num_slices
            self.num_bytes += outcome.num_bytes
        elif outcome.status == "skipped":
            self.skipped += 1

    def take_unseen(self, receipt: Mapping[str, Any] | None) -> None:
        """Count a committed volume whose outcome was not received, by its receipt; None if it was committed before."""
        if receipt is None:
            self.skipped += 1
            return
        self.built += 1
        self.num_slices += receipt["num_slices"]
        arrays = receipt["arrays"].items()
        self.num_bytes += sum(math.prod(array["shape"]) * np.dtype(array["dtype"]).itemsize for _, array in arrays)

    def sort(self, names: Iterable[str]) -> None:
        """Sort failures into the order of the manifest."""
        ordered = {name: self.failed[name] for name in names if name in self.failed} if self.failed else {}
        self.failed = {**ordered, **self.failed}

    def to_json(self) -> dict[str, Any]:
        """Return the summary as a JSON object."""
        return {**asdict(self), "num_open": self.num_open, "exit_status": self.exit_status}

    def lines(self) -> list[str]:
        """Format the summary as lines of text, failures by reason."""
        num_committed = self.built + self.skipped - len(self.vanished)
        lines = [f"{self.corpus}: {num_committed} of {self.num_volumes} volumes committed{self._describe_new()}"]
        lines += listed(self.failed, "failed:")
        lines += listed(
            self.not_retried,
            "failed in an earlier run and were not retried; use --retry-failed or edit their rows:",
        )
        if self.vanished:
            lines.append(
                f"{len(self.vanished)} volumes were committed and have no receipt at the end of the run "
                f"({_first_names(self.vanished)}); expected no other program to change the corpus; find out what "
                "removed them, and run the same command again"
            )
        if self.unreadable:
            lines.append(
                f"{len(self.unreadable)} other volumes of the corpus have damaged receipts "
                f"({_first_names(self.unreadable)}); rebuild them with 'rephase repair {self.corpus}'"
            )
        if self.foreign:
            lines.append(
                f"{len(self.foreign)} volumes of other names or recipes were copied into the corpus and are not in its "
                f"index ({_first_names(self.foreign)}); expected volumes that were built into it; delete them with "
                f"'rephase repair --delete-unexpected {self.corpus}'"
            )
        if self.stopped:
            lines.append(f"stopped with {self.num_open} volumes left: {self.stopped}")
        return lines

    def _describe_new(self) -> str:
        if not self.built:
            return ", all of them in earlier runs" if self.skipped else ""
        rate = f", {self.num_slices / self.seconds:.1f} slices/s" if self.seconds else ""
        return (
            f": {self.built} built in this run ({self.num_slices} slices, {format_bytes(self.num_bytes)} before "
            f"compression, {format_seconds(self.seconds)}{rate}), {self.skipped} in earlier runs"
        )


def _first_names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{', '.join(names[:_NAMED])}{more}"


def listed(failures: dict[str, Failure], what: str) -> list[str]:
    """Format the volumes that failed: counts by reason, then each volume."""
    if not failures:
        return []
    counts = Counter(failure.reason for failure in failures.values())
    lines = [
        f"{len(failures)} volumes {what} {', '.join(f'{count} {reason}' for reason, count in counts.most_common())}"
    ]
    lines += [f"  {name}: {failure.reason}: {failure.shown}" for name, failure in list(failures.items())[:_SHOWN]]
    if len(failures) > _SHOWN:
        lines.append(f"  and {len(failures) - _SHOWN} more, all of them with 'rephase status CORPUS --json'")
    return lines


_SHOWN_REPAIRED = 50


@dataclass
class RepairSummary:
    """The result of a repair.

    Attributes
    ----------
    num_volumes
        Committed volumes that were checked.
    problems
        Problems as listed by `verify`.
    damaged
        Volumes to rebuild.
    restored, replaced
        Numbers of volumes rebuilt with the same bytes; rebuilt with other bytes, which was accepted or could not be
        compared.
    failed
        Volumes that could not be rebuilt, with the reason.
    documents
        Documents of the corpus that were rewritten.
    unexpected, removed
        Orphan objects, which belong to no volume, and volumes that were copied into the corpus; those deleted.
    twins
        Volumes whose names differ from others in case only, which no repair can decide between.
    dry_run, interrupted, stopped
        How it ended; as in `BuildSummary`.
    """

    corpus: str
    num_volumes: int = 0
    problems: list[tuple[str, str]] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    restored: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    failed: dict[str, Failure] = field(default_factory=dict)
    documents: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    twins: list[str] = field(default_factory=list)
    dry_run: bool = False
    interrupted: bool = False
    stopped: str | None = None

    @property
    def exit_status(self) -> int:
        """Exit status of the command: 0 no errors remain, 1 errors remain, 130 interrupted."""
        if self.interrupted:
            return 130
        if self.dry_run:
            return 1 if self.problems else 0
        left = set(self.damaged) - {*self.restored, *self.replaced}
        return 1 if left or self.twins or self.stopped or len(self.removed) < len(self.unexpected) else 0

    def to_json(self) -> dict[str, Any]:
        """Return the summary as a JSON object."""
        return {**asdict(self), "exit_status": self.exit_status}

    def lines(self) -> list[str]:
        """Format the summary as lines of text."""
        lines = problem_lines(self.problems)
        if self.dry_run and self.problems:
            lines.append(f"would rebuild {len(self.damaged) - len(self.failed)} volumes{self._written('rewrite')}")
        elif self.problems:
            lines.append(
                f"{len(self.restored)} volumes rebuilt, with the same bytes as before{self._written('rewrote')}"
            )
        if self.replaced:
            shown = ", ".join(self.replaced[:_SHOWN_REPAIRED])
            lines.append(f"{len(self.replaced)} volumes rebuilt with other bytes than before: {shown}")
        lines += listed(self.failed, "cannot be rebuilt:")
        if self.unexpected:
            what = "deleted" if self.removed else "left in place; delete them with --delete-unexpected"
            lines.append(f"{len(self.unexpected)} orphan objects, which belong to no volume: {what}")
        if self.stopped:
            lines.append(f"stopped: {self.stopped}")
        looked = f"{self.num_volumes} volumes checked, {len(self.problems) or 'no'} errors"
        return [*lines, f"{self.corpus}: {looked}{self._describe_end()}"]

    def _written(self, verb: str) -> str:
        return f"; {verb} {', '.join(self.documents)}" if self.documents else ""

    def _describe_end(self) -> str:
        if not self.problems:
            return ""
        return {0: ", all of them repaired", 130: "; interrupted"}.get(
            self.exit_status, "; nothing was changed" if self.dry_run else "; not all of them repaired"
        )
