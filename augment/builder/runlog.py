"""The run log next to a corpus, `<corpus>.run/`: outcomes of every run, and failed volumes. Not part of the corpus.

`runs/<time>.jsonl` has one line for the start, for every volume and for the end; `failures.json` lists the volumes that
failed and were not built since, `strikes.json` those that a worker was building when it died and that must be retried
alone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Self, TypeVar

from rephase.corpus.storage.open import open_run_folder
from rephase.pipeline.task import Outcome, receipt_digest

_WRITE_EVERY_S = 2.0
_Entry = TypeVar("_Entry")


@dataclass(frozen=True)
class Failure:
    """A volume that was not built. `row` is the fingerprint of its row: an edited row is retried.

    `message` names the row by its line in the manifest, `line`, and no file; 0 in logs of earlier versions, whose
    messages have paths. `detail` is the message with paths, which only `--log-paths` logs.
    """

    reason: str
    message: str
    row: str
    recipe_hash: str
    line: int = 0
    detail: str = ""

    @property
    def shown(self) -> str:
        """The message for the user of the corpus."""
        return self.detail or self.message


@dataclass(frozen=True)
class Strike:
    """A volume that a worker was building when it died, and that has neither been built nor marked as failed since."""

    row: str
    recipe_hash: str


class RunLog:
    """Writes the log of one run, until closed.

    On a disk every line is written immediately; to an object store, which cannot append, at intervals. `token` is
    that of the lease under which it is written. With `log_paths`, messages are logged with paths, too. `name` is that
    of the log.
    """

    def __init__(self, root: str, facts: Mapping[str, Any], token: str = "", log_paths: bool = False) -> None:
        self._log_paths = log_paths
        self.failures = read_failures(root)
        self.strikes = _read_entries(root, "strikes.json", Strike)
        self._storage = open_run_folder(root, token)
        self.name = f"{datetime.now(UTC).strftime('%Y%m%dT%H%M%S.%fZ')}.jsonl"
        self._key = f"runs/{self.name}"
        self._pending = b""
        self._written = 0.0
        self._write_every_s = _WRITE_EVERY_S
        self._line({"event": "start", **facts})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Write the buffered lines."""
        self.flush()

    def record(self, outcome: Outcome, row: str, recipe_hash: str, line: int = 0) -> None:
        """Log the outcome of a volume, whose row has this fingerprint and line."""
        detail = (outcome.message or "") if self._log_paths else ""
        if outcome.status == "failed":
            self.failures[outcome.name] = Failure(
                outcome.reason or "failed", outcome.public or "", row, recipe_hash, line, detail
            )
        else:
            self.failures.pop(outcome.name, None)
        if self.strikes.pop(outcome.name, None) is not None:
            self._write_strikes()
        self._outcome(outcome)
        if time.monotonic() - self._written > self._write_every_s:
            self.flush()

    def record_fault(self, outcome: Outcome, recipe_hash: str) -> Failure:
        """Log a volume that failed through no fault of its own, so that the next run tries it again."""
        if self.strikes.pop(outcome.name, None) is not None:
            self._write_strikes()
        self._outcome(outcome)
        return Failure(outcome.reason or "failed", outcome.message or "", "", recipe_hash)

    def _outcome(self, outcome: Outcome) -> None:
        facts = asdict(outcome)
        del facts["receipt"], facts["public"]
        detail = (outcome.message or "") if self._log_paths else ""
        facts |= {"message": outcome.public} | ({"detail": detail} if detail else {})
        facts["seconds"] = {stage: round(value, 4) for stage, value in outcome.seconds.items()}
        if outcome.receipt is not None:
            facts["receipt_sha256"] = receipt_digest(outcome.receipt)
        self._line({"event": "volume", **facts})

    def strike(self, name: str, row: str, recipe_hash: str) -> None:
        """Log a volume that a worker was building when it died; the next run reads it if this one ends first."""
        self.strikes[name] = Strike(row, recipe_hash)
        self._write_strikes()
        self._line({"event": "strike", "name": name})

    def has_strike(self, name: str, row: str, recipe_hash: str) -> bool:
        """Check whether, in any run, a worker died while building this volume with this row and recipe."""
        return self.strikes.get(name) == Strike(row, recipe_hash)

    def _write_strikes(self) -> None:
        self._replace("strikes.json", {name: asdict(strike) for name, strike in self.strikes.items()})

    def end(self, facts: Mapping[str, Any]) -> None:
        """Write the last line."""
        self._line({"event": "end", **facts})

    def flush(self) -> None:
        """Write `failures.json` and the buffered lines."""
        start = time.monotonic()
        self._replace("failures.json", {name: asdict(failure) for name, failure in self.failures.items()})
        self._write_lines()
        self._written = time.monotonic()
        # an object store receives the complete log each time, so a longer log is written less often
        self._write_every_s = max(_WRITE_EVERY_S, 20 * (self._written - start))

    def _replace(self, key: str, document: Mapping[str, Any]) -> None:
        self._storage.put(key, (json.dumps(document, indent=1) + "\n").encode())

    def _line(self, document: Mapping[str, Any]) -> None:
        self._pending += json.dumps({"time": round(time.time(), 3), **document}).encode() + b"\n"
        if self._storage.is_local:
            self._write_lines()

    def _write_lines(self) -> None:
        if self._pending:
            lines, self._pending = self._pending, b""  # after an error, part of them may be written
            self._storage.append(self._key, lines)


def read_failures(root: str) -> dict[str, Failure]:
    """Read the volumes that failed in earlier runs; empty if there are none, or the file is damaged."""
    return _read_entries(root, "failures.json", Failure)


def _read_entries(root: str, key: str, kind: Callable[..., _Entry]) -> dict[str, _Entry]:
    try:
        document = json.loads(open_run_folder(root).get(key) or b"{}")
        return {name: kind(**entry) for name, entry in document.items()}
    except (ValueError, TypeError, AttributeError):
        return {}


def run_names(root: str) -> list[str]:
    """List the logs of all runs, oldest first."""
    return [name for name in open_run_folder(root).children("runs") if name.endswith(".jsonl")]


def read_run(root: str, name: str) -> Iterator[dict[str, Any]]:
    """Yield the lines of one run; an incomplete line of a killed run is skipped."""
    for line in (open_run_folder(root).get(f"runs/{name}") or b"").splitlines():
        try:
            document = json.loads(line)
        except ValueError:
            continue
        if isinstance(document, dict):
            yield document
