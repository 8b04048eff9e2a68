"""Work that threads do ahead of the one who waits for it, in order and with bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(
    work: Callable[[Item], Result], items: Iterable[Item], threads: int, ahead: int, name: str
) -> Generator[Result, None, None]:
    """Give `work(item)` for every item, in their order.

    Parameters
    ----------
    work
        Done in `threads` threads of this name; an error is raised where its result is due.
    items
        Taken one by one, at most `ahead` before the one whose result is awaited: there may be a million.
    threads, ahead, name
        How many work at once, how far ahead, and what the threads are called.
    """
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads, name) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # also where the one who waits has seen enough
            for future in waiting:
                future.cancel()
