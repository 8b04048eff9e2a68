"""How a volume ended whose task gave no outcome of its own: its worker died, it hung, or Dask lost it."""

from __future__ import annotations

from augment.errors import RETRY_WITH_MEMORY
from augment.time_limit import find_hang
from augment.workbench import Outcome, Task
from cluster.window import Finished


def lost_outcome(root: str, finished: Finished[Task]) -> Outcome:
    """Say how a task ended that gave no outcome of its own; `root` is the corpus, whose log knows of hangs."""
    task = finished.item
    if finished.worker_lost:
        return _quarantined(root, task)
    message = f"{task.where}: unexpected {type(finished.error).__name__}: {finished.error}"
    return Outcome(task.name, "failed", "failed", " ".join(message.split()))


def _quarantined(root: str, task: Task) -> Outcome:
    """Say why a volume was given up that cost a worker among others, and another one with nothing beside it."""
    hang = find_hang(root, task.name)
    if hang is not None:
        message = (
            f"{task.where}: took longer than its limit of {hang.limit_s:g} s, with nothing beside it, and hung in "
            f"{hang.place}; expected it to end; look whether the file makes its reader hang, or run again with "
            "--retry-failed --time-limit SECONDS"
        )
        return Outcome(task.name, "failed", "timeout", message)
    message = (
        f"{task.where}: its worker died each time, the last time with nothing beside it; expected it to fit "
        f"into memory; {RETRY_WITH_MEMORY}, or look whether the file crashes its reader"
    )
    return Outcome(task.name, "failed", "worker_lost", message)
