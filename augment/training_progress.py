"""How far a training is: a bar on a terminal, a line every minute in a log."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

Progress = Callable[[int, float], None]
LINE_SECONDS = 60.0
"""From one line to the next where there is no terminal: a log of hours stays readable."""
_LINE = "{desc}: {n_fmt} of {total_fmt} steps [{elapsed}<{remaining}, {rate_fmt}{postfix}]"


@contextmanager
def training_progress(step: int, steps: int, *, shown: bool = True) -> Iterator[Progress]:
    """Give a `progress(step, loss)` that shows the steps done, the time left and a running mean of the loss on stderr.

    Parameters
    ----------
    step
        Where the training goes on from.
    steps
        Where it ends.
    shown
        False for all but one of the processes that train together.
    """
    terminal = sys.stderr.isatty()
    with tqdm(
        desc="training", unit="step", total=steps, initial=step, disable=not (shown and terminal), mininterval=1.0
    ) as bar:
        show = _on(bar) if terminal else _lines(step, steps)
        mean = math.nan

        def progress(step: int, loss: float) -> None:
            nonlocal mean
            mean = loss if math.isnan(mean) else 0.98 * mean + 0.02 * loss
            if shown:
                show(step + 1, f"loss {mean:.3f}")

        yield progress


def _on(bar: tqdm[None]) -> Callable[[int, str], None]:
    def show(done: int, note: str) -> None:
        bar.set_postfix_str(note, refresh=False)
        bar.update(done - bar.n)

    return show


def _lines(start: int, steps: int) -> Callable[[int, str], None]:
    began = said = time.monotonic()

    def show(done: int, note: str) -> None:
        nonlocal said
        now = time.monotonic()
        if now - said >= LINE_SECONDS or done == steps:
            said = now
            elapsed = now - began
            print(  # noqa: T201
                tqdm.format_meter(
                    done, steps, elapsed, prefix="training", unit="step", postfix=note, initial=start, bar_format=_LINE
                ),
                file=sys.stderr,
                flush=True,
            )

    return show
