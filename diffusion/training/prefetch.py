"""Batches are prepared in the background, so that the device never waits for them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")


def prefetch(make: Callable[[int], Item], numbers: Iterable[int], ahead: int) -> Generator[Item, None, None]:
    """Give `make(number)` for every number, in order, made by `ahead` threads up to `ahead` items early.

    What `make` gives must depend on the number alone; then the items are those of a plain loop, which `ahead = 0` is.
    An error in `make` is raised where its item is due. Close the iterator to stop the threads early.
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
