"""How far a corpus is: what is committed, what failed, and what the last run did."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from augment.amounts import format_seconds
from augment.runlog import Failure, read_failures, read_run, run_names
from augment.store import CorpusStore

_SHOWN = 20


@dataclass
class RunStatus:
    """What one run's log tells. `ended` is False while it runs, or where it was killed."""

    name: str
    started: float = 0.0
    last: float = 0.0
    num_volumes: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    num_slices: int = 0
    ended: bool = False
    interrupted: bool = False
    stopped: str | None = None

    @property
    def seconds(self) -> float:
        """From its start to its last line."""
        return self.last - self.started


@dataclass
class CorpusStatus:
    """How far a corpus is."""

    corpus: str
    recipe: dict[str, Any]
    num_committed: int
    num_unfinished: int
    failures: dict[str, Failure]
    last_run: RunStatus | None

    def to_json(self) -> dict[str, Any]:
        """Give all of it as a JSON object."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Say it in words."""
        recipe = self.recipe
        lines = [
            f"corpus:    {self.corpus}",
            f"recipe:    phase {recipe.get('phase')}, seed {recipe.get('seed')}",
            f"committed: {self.num_committed} volumes",
        ]
        if self.num_unfinished:
            lines.append(f"begun:     {self.num_unfinished} volumes without a receipt; the next build makes them again")
        if self.last_run is not None:
            lines.append(f"last run:  {_say_run(self.last_run)}")
        if self.failures:
            counts = Counter(failure.reason for failure in self.failures.values())
            reasons = ", ".join(f"{count} {reason}" for reason, count in counts.most_common())
            lines.append(f"failed:    {len(self.failures)} volumes: {reasons}")
            for name, failure in list(self.failures.items())[:_SHOWN]:
                lines.append(f"  {name}: {failure.reason}: {failure.message}")
            if len(self.failures) > _SHOWN:
                lines.append(f"  and {len(self.failures) - _SHOWN} more, all of them with --json")
        return lines


def read_status(root: str) -> CorpusStatus:
    """Read how far a corpus is, while it is built or later.

    Raises
    ------
    RequestError
        If there is no corpus.
    """
    store = CorpusStore.open(root)
    recipe = store.attributes.get("recipe")
    runs = run_names(store.root)
    return CorpusStatus(
        corpus=store.root,
        recipe=recipe if isinstance(recipe, dict) else {},
        num_committed=len(store.names()),
        num_unfinished=len(store.unfinished()),
        failures=read_failures(store.root),
        last_run=summarise_run(store.root, runs[-1]) if runs else None,
    )


def summarise_run(root: str, name: str) -> RunStatus:
    """Add up the log of one run."""
    run = RunStatus(name)
    counts: Counter[str] = Counter()
    for line in read_run(root, name):
        run.last = float(line["time"])
        match line["event"]:
            case "start":
                run.started = run.last
                run.num_volumes = line["num_volumes"]
            case "volume":
                counts[line["status"]] += 1
                run.num_slices += line["num_slices"] if line["status"] == "built" else 0
            case "end":
                run.ended = True
                run.interrupted = line["interrupted"]
                run.stopped = line["stopped"]
                for status in ("built", "skipped"):  # with volumes whose outcome came too late to be seen
                    counts[status] = line.get(status, counts[status])
                run.num_slices = line.get("num_slices", run.num_slices)
    run.counts = {status: count for status, count in counts.items() if count}
    return run


def _say_run(run: RunStatus) -> str:
    began = datetime.fromtimestamp(run.started, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    done = ", ".join(f"{count} {status}" for status, count in sorted(run.counts.items())) or "nothing yet"
    rate = f", {run.num_slices / run.seconds:.1f} slices/s" if run.num_slices and run.seconds else ""
    if not run.ended:
        end = "not ended: it is running, or was killed"
    elif run.interrupted:
        end = "interrupted"
    else:
        end = f"stopped: {run.stopped}" if run.stopped else "ended"
    return f"{began}, {format_seconds(run.seconds)}, {end}; of {run.num_volumes} volumes {done}{rate}"
