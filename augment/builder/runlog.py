"""The log beside a corpus, `<corpus>.run/`: what every run did, and which volumes failed. No part of the corpus.

`runs/<time>.jsonl` holds one line for the start, for every volume and for the end; `failures.json` the volumes that
failed and were not built since, `strikes.json` those that were in hand when a worker died and wait to be tried alone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self, TextIO, TypeVar

from rephase.corpus.storage.base import Storage, run_folder
from rephase.corpus.storage.open import open_storage
from rephase.files import replacing
from rephase.pipeline.task import Outcome

_WRITE_EVERY_S = 2.0
_Entry = TypeVar("_Entry")


@dataclass(frozen=True)
class Failure:
    """A volume that was not built. `row` is its row's fingerprint: an edited row is tried again."""

    reason: str
    message: str
    row: str
    recipe_hash: str


@dataclass(frozen=True)
class Strike:
    """A volume that was in hand when its worker died, and was neither cleared nor given up since."""

    row: str
    recipe_hash: str


class RunLog:
    """Writes the log of one run, until it is closed.

    On an object store, which cannot append, the lines are kept in memory and written at intervals as a whole.
    """

    def __init__(self, root: str, facts: Mapping[str, Any]) -> None:
        self.failures = read_failures(root)
        self.strikes = _read_entries(root, "strikes.json", Strike)
        self._folder = _folder(root)
        self._key = f"runs/{datetime.now(UTC).strftime('%Y%m%dT%H%M%S.%fZ')}.jsonl"
        self._lines: list[str] = []
        self._file: TextIO | None = None
        self._written = 0.0
        self._write_every_s = _WRITE_EVERY_S
        if isinstance(self._folder, Path):
            path = self._folder / self._key
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("w", encoding="utf-8", buffering=1)
        try:
            self._line({"event": "start", **facts})
        except OSError:
            if self._file is not None:
                with suppress(OSError):  # the same error again, as it empties its buffer
                    self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Write what is still kept in memory."""
        try:
            self.flush()
        finally:  # also on a full disk
            if self._file is not None:
                self._file.close()

    def record(self, outcome: Outcome, row: str, recipe_hash: str) -> None:
        """Take in how a volume ended."""
        if outcome.status == "failed":
            message = outcome.message or ""
            self.failures[outcome.name] = Failure(outcome.reason or "failed", message, row, recipe_hash)
        else:
            self.failures.pop(outcome.name, None)
        if self.strikes.pop(outcome.name, None) is not None:
            self._write_strikes()
        facts = asdict(outcome)
        del facts["receipt"]
        facts["seconds"] = {stage: round(value, 4) for stage, value in outcome.seconds.items()}
        self._line({"event": "volume", **facts})
        if time.monotonic() - self._written > self._write_every_s:
            self.flush()

    def strike(self, name: str, row: str, recipe_hash: str) -> None:
        """Take in that a volume was in hand when its worker died; kept for the next run, should this one end first."""
        self.strikes[name] = Strike(row, recipe_hash)
        self._write_strikes()
        self._line({"event": "strike", "name": name})

    def has_strike(self, name: str, row: str, recipe_hash: str) -> bool:
        """Tell whether this very volume was in hand when a worker died, in this run or an earlier one."""
        return self.strikes.get(name) == Strike(row, recipe_hash)

    def _write_strikes(self) -> None:
        self._replace("strikes.json", {name: asdict(strike) for name, strike in self.strikes.items()})

    def end(self, facts: Mapping[str, Any]) -> None:
        """Write the last line."""
        self._line({"event": "end", **facts})

    def flush(self) -> None:
        """Write `failures.json`, and the lines where they are kept in memory."""
        start = time.monotonic()
        self._replace("failures.json", {name: asdict(failure) for name, failure in self.failures.items()})
        if not isinstance(self._folder, Path):
            self._folder.put(self._key, "".join(self._lines).encode())
        self._written = time.monotonic()
        # an object store gets the whole log each time, so as it grows it is written less often
        self._write_every_s = max(_WRITE_EVERY_S, 20 * (self._written - start))

    def _replace(self, key: str, document: Mapping[str, Any]) -> None:
        text = json.dumps(document, indent=1) + "\n"
        if isinstance(self._folder, Path):
            with replacing(self._folder / key) as partial:
                partial.write_text(text, encoding="utf-8")
        else:
            self._folder.put(key, text.encode())

    def _line(self, document: Mapping[str, Any]) -> None:
        line = json.dumps({"time": round(time.time(), 3), **document}) + "\n"
        if self._file is None:
            self._lines.append(line)
        else:
            self._file.write(line)


def _folder(root: str) -> Path | Storage:
    folder = run_folder(root).removeprefix("file://")
    return open_storage(folder) if "://" in folder else Path(folder)


def _read(root: str, key: str) -> bytes | None:
    folder = _folder(root)
    if not isinstance(folder, Path):
        return folder.get(key)
    path = folder / key
    return path.read_bytes() if path.is_file() else None


def read_failures(root: str) -> dict[str, Failure]:
    """Read the volumes that failed in earlier runs; empty where there are none, or the file is damaged."""
    return _read_entries(root, "failures.json", Failure)


def _read_entries(root: str, key: str, kind: Callable[..., _Entry]) -> dict[str, _Entry]:
    try:
        document = json.loads(_read(root, key) or b"{}")
        return {name: kind(**entry) for name, entry in document.items()}
    except (ValueError, TypeError, AttributeError):
        return {}


def run_names(root: str) -> list[str]:
    """Name the runs, oldest first."""
    folder = _folder(root)
    if isinstance(folder, Path):
        return sorted(path.name for path in (folder / "runs").glob("*.jsonl"))
    return [name for name in folder.children("runs") if name.endswith(".jsonl")]


def read_run(root: str, name: str) -> Iterator[dict[str, Any]]:
    """Read the lines of one run; a line that a killed run left torn is passed over."""
    for line in (_read(root, f"runs/{name}") or b"").splitlines():
        try:
            document = json.loads(line)
        except ValueError:
            continue
        if isinstance(document, dict):
            yield document
