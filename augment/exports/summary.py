"""How an export ended, in numbers and in words."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from augment.amounts import format_bytes, format_seconds

_SHOWN = 20


@dataclass
class ExportSummary:
    """What an export did.

    Attributes
    ----------
    corpus, folder
        From where to where.
    num_volumes
        Volumes that were asked for.
    written, skipped
        Volumes written now; volumes that were finished before.
    failed
        Volume to (reason, message).
    num_slices, num_bytes
        Of what was written now; bytes before compression.
    seconds
        Wall time.
    interrupted
        True where the user stopped it.
    stopped
        Why it gave up before the end; None where it did not.
    """

    corpus: str
    folder: str
    num_volumes: int
    written: int = 0
    skipped: int = 0
    failed: dict[str, tuple[str, str]] = field(default_factory=dict)
    num_slices: int = 0
    num_bytes: int = 0
    seconds: float = 0.0
    interrupted: bool = False
    stopped: str | None = None

    @property
    def exit_status(self) -> int:
        """0 all done, 1 some volumes are missing, 130 interrupted."""
        if self.interrupted:
            return 130
        return 1 if self.failed or self.stopped else 0

    def take(self, num_slices: int, num_bytes: int) -> None:
        """Count a volume that was written."""
        self.written += 1
        self.num_slices += num_slices
        self.num_bytes += num_bytes

    def fail(self, name: str, reason: str, message: str) -> None:
        """Record a volume that was not."""
        self.failed[name] = (reason, message)

    def to_json(self) -> dict[str, Any]:
        """Give all of it as a JSON object."""
        failed = {name: {"reason": reason, "message": message} for name, (reason, message) in self.failed.items()}
        return {**asdict(self), "failed": failed, "exit_status": self.exit_status}

    def lines(self) -> list[str]:
        """Say it in words."""
        done = self.written + self.skipped
        lines = [f"{self.folder}: {done} of {self.num_volumes} volumes{self._say_new()}"]
        lines += [f"  {name}: {reason}: {message}" for name, (reason, message) in list(self.failed.items())[:_SHOWN]]
        if len(self.failed) > _SHOWN:
            lines.append(f"  and {len(self.failed) - _SHOWN} more that failed, all of them with --json")
        if self.stopped:
            lines.append(f"stopped with {self.num_volumes - done - len(self.failed)} volumes to go: {self.stopped}")
        return lines

    def _say_new(self) -> str:
        if not self.written:
            return ", all of them before" if self.skipped and not self.failed else ""
        return (
            f": {self.written} written and read back now ({self.num_slices} slices, {format_bytes(self.num_bytes)} "
            f"before compression, {format_seconds(self.seconds)}), {self.skipped} before"
        )
