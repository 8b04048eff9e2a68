"""How a build ended, in numbers and in words."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from augment.amounts import format_bytes, format_seconds
from augment.runlog import Failure
from augment.workbench import Outcome

_SHOWN = 20
_NAMED = 5


@dataclass
class BuildSummary:
    """What a build did.

    Attributes
    ----------
    corpus
        Its path or URL.
    num_volumes
        Volumes that the manifest asks for.
    built, skipped
        Volumes committed now; volumes that were committed before.
    failed, left_out
        Volumes that failed now; those that failed in an earlier run and were not tried again: name to failure.
    vanished
        Volumes that are counted above and had no receipt any more at the end: something else removed them.
    unreadable
        Volumes that this run was not to make, whose receipts it could not read for the index.
    num_slices, num_bytes
        Of what was built now; bytes of the arrays before compression.
    seconds
        Wall time of the work, without starting the workers.
    interrupted
        True where the user stopped it.
    stopped
        Why it gave up before the end, for example a full disk; None where it did not.
    """

    corpus: str
    num_volumes: int = 0
    built: int = 0
    skipped: int = 0
    failed: dict[str, Failure] = field(default_factory=dict)
    left_out: dict[str, Failure] = field(default_factory=dict)
    vanished: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    num_slices: int = 0
    num_bytes: int = 0
    seconds: float = 0.0
    interrupted: bool = False
    stopped: str | None = None

    @property
    def num_open(self) -> int:
        """Volumes that were not come to."""
        return self.num_volumes - self.built - self.skipped - len(self.failed) - len(self.left_out)

    @property
    def exit_status(self) -> int:
        """0 all done, 1 some volumes are missing, 130 interrupted."""
        if self.interrupted:
            return 130
        return 1 if self.failed or self.left_out or self.vanished or self.unreadable or self.stopped else 0

    def take(self, outcome: Outcome) -> None:
        """Count how a volume ended; failures are given in `failed` by the caller, who knows the row."""
        if outcome.status == "built":
            self.built += 1
            self.num_slices += outcome.num_slices
            self.num_bytes += outcome.num_bytes
        elif outcome.status == "skipped":
            self.skipped += 1

    def take_unseen(self, receipt: Mapping[str, Any] | None) -> None:
        """Count a committed volume whose outcome never came: its receipt, or None where it was committed before."""
        if receipt is None:
            self.skipped += 1
            return
        self.built += 1
        self.num_slices += receipt["num_slices"]
        arrays = receipt["arrays"].items()
        self.num_bytes += sum(math.prod(array["shape"]) * np.dtype(array["dtype"]).itemsize for _, array in arrays)

    def sort(self, names: Iterable[str]) -> None:
        """Bring failures, which come as they happen, into the manifest's order."""
        ordered = {name: self.failed[name] for name in names if name in self.failed} if self.failed else {}
        self.failed = {**ordered, **self.failed}

    def to_json(self) -> dict[str, Any]:
        """Give all of it as a JSON object."""
        return {**asdict(self), "num_open": self.num_open, "exit_status": self.exit_status}

    def lines(self) -> list[str]:
        """Say it in words, failures listed by reason."""
        num_committed = self.built + self.skipped - len(self.vanished)
        lines = [f"{self.corpus}: {num_committed} of {self.num_volumes} volumes are committed{self._say_new()}"]
        lines += listed(self.failed, "failed; the reason of each:")
        lines += listed(
            self.left_out, "failed in an earlier run and were not tried again; --retry-failed does, an edited row too:"
        )
        if self.vanished:
            lines.append(
                f"{len(self.vanished)} volumes were committed and had no receipt at the end of the run "
                f"({_say_some(self.vanished)}); expected nobody else to change the corpus; find out what removed them, "
                "and run the same command again"
            )
        if self.unreadable:
            lines.append(
                f"{len(self.unreadable)} other volumes of the corpus have damaged receipts "
                f"({_say_some(self.unreadable)}); make them again with 'phasegen repair {self.corpus}'"
            )
        if self.stopped:
            lines.append(f"stopped with {self.num_open} volumes to go: {self.stopped}")
        return lines

    def _say_new(self) -> str:
        if not self.built:
            return ", all of them before" if self.skipped else ""
        rate = f", {self.num_slices / self.seconds:.1f} slices/s" if self.seconds else ""
        return (
            f": {self.built} built now ({self.num_slices} slices, {format_bytes(self.num_bytes)} before compression, "
            f"{format_seconds(self.seconds)}{rate}), {self.skipped} before"
        )


def _say_some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{', '.join(names[:_NAMED])}{more}"


def listed(failures: dict[str, Failure], what: str) -> list[str]:
    """Say which volumes failed, by reason and one by one."""
    if not failures:
        return []
    counts = Counter(failure.reason for failure in failures.values())
    lines = [
        f"{len(failures)} volumes {what} {', '.join(f'{count} {reason}' for reason, count in counts.most_common())}"
    ]
    lines += [f"  {name}: {failure.reason}: {failure.message}" for name, failure in list(failures.items())[:_SHOWN]]
    if len(failures) > _SHOWN:
        lines.append(f"  and {len(failures) - _SHOWN} more; all of them: phasegen status CORPUS --json")
    return lines
