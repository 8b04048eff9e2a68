"""Background threads with results in order: prepare batches ahead of a device, read files ahead of a reader."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import TypeVar

Item = TypeVar("Item")


def prefetch(make: Callable[[int], Item], numbers: Iterable[int], ahead: int) -> Generator[Item, None, None]:
    """Yield `make(number)` for every number, in order, computed by `ahead` threads up to `ahead` items early.

    The result of `make` must depend on the number alone; then the items are those of a plain loop (`ahead = 0`).
    An error in `make` is raised when its item is due. Close the iterator to stop the threads early.
    """
    if ahead < 1:
        yield from map(make, numbers)
        return
    rest = iter(numbers)
    waiting: deque[Future[Item]] = deque()
    with ThreadPoolExecutor(ahead, thread_name_prefix="prefetch") as threads:
        try:
            for number in rest:
                waiting.append(threads.submit(make, number))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


Result = TypeVar("Result")
_LEAVE_S = 1.0
"""Wait for a thread whose last call may hang."""


def in_order(
    work: Callable[[Item], Result], items: Iterable[Item], threads: int, ahead: int, name: str
) -> Generator[Result, None, None]:
    """Yield `work(item)` for every item, in their order.

    Parameters
    ----------
    work
        Called in `threads` threads of this name; an error is raised when its result is due.
    items
        Consumed lazily, at most `ahead` before the one whose result is due: the iterable may have a million.
    threads, ahead, name
        Number of threads, of items ahead, and the name of the threads.
    """
    jobs: SimpleQueue[tuple[Future[Result], Item] | None] = SimpleQueue()

    def run() -> None:
        while (job := jobs.get()) is not None:
            future, item = job
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work(item))
                except BaseException as error:  # raised where the result is due
                    future.set_exception(error)

    # Daemons: a call that hangs in the kernel must not keep the process from ending when it is interrupted.
    pool = [threading.Thread(target=run, name=f"{name}_{number}", daemon=True) for number in range(threads)]
    for thread in pool:
        thread.start()
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(Future())
            jobs.put((waiting[-1], item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:  # also if the caller closes the iterator early
        for future in waiting:
            future.cancel()
        for _ in range(threads):
            jobs.put(None)
        for thread in pool:
            thread.join(_LEAVE_S)
