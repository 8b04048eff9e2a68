"""Hands items out to a cluster through a bounded window, and finds out which of them kill their workers."""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from dask.utils import funcname
from distributed import CancelledError, Client, KilledWorker, as_completed

from rephase.cluster.connect import Connection
from rephase.cluster.errors import ClusterError

PER_THREAD = 4
"""Items in the window per thread of the cluster: enough to keep it busy, few enough to remember."""

_POLL_S = 0.02
_RESULT_S = 5.0
_LOOK_S = 2.0

T = TypeVar("T")


@dataclass(frozen=True)
class Finished(Generic[T]):
    """An item that came back: with a value, with the error that its function raised, or with its worker lost."""

    item: T
    value: Any = None
    error: BaseException | None = None
    worker_lost: bool = False


def run_window(
    connection: Connection,
    function: Callable[[T], Any],
    items: Iterator[T],
    name: Callable[[T], str],
    *,
    workerless_s: float | None = None,
    is_suspect: Callable[[T], bool] | None = None,
    suspect: Callable[[T], None] | None = None,
) -> Iterator[Finished[T] | None]:
    """Run a function over items on the cluster.

    When workers die, Dask counts it against everything that they held, guilty or not. So an item that Dask gives up is
    only a suspect: it runs once more when nothing else does, and is given up if it kills its worker then too.

    Parameters
    ----------
    connection
        Of `rephase.cluster.connect`.
    function
        Of an importable module; its argument and result are small.
    items
        Taken one by one as the window has room.
    name
        Names an item on the dashboard; unique.
    workerless_s
        Seconds without any worker after which the work is given up; those of the connection where None.
    is_suspect
        Tells of an item that it is one already, from an earlier run: it only runs when nothing else does.
    suspect
        Called with an item that has just become one.

    Yields
    ------
    finished
        An item that came back, in any order; None now and then while nothing does, so that a caller may look at
        the clock.

    Raises
    ------
    ClusterError
        If the scheduler is gone or no worker comes back. What ran then may have been done or not.
    """
    patience_s = connection.workerless_s if workerless_s is None else workerless_s
    window = _Window(connection, function, name, patience_s)
    try:
        suspects: deque[T] = deque()
        while True:
            while window.has_room() and (item := next(items, None)) is not None:
                if is_suspect is not None and is_suspect(item):
                    suspects.append(item)
                else:
                    window.submit(item)
            alone = not len(window) and bool(suspects)
            if alone:
                window.submit(suspects.popleft())
            elif not len(window):
                return
            for finished in window.collect(once=not alone):
                if finished is not None and finished.worker_lost and not alone:
                    suspects.append(finished.item)
                    if suspect is not None:
                        suspect(finished.item)
                else:
                    yield finished
    finally:
        window.cancel()


class _Window(Generic[T]):
    """The items that are handed out at this moment."""

    def __init__(
        self, connection: Connection, function: Callable[[T], Any], name: Callable[[T], str], workerless_s: float
    ) -> None:
        self._connection = connection
        self._function = function
        self._name = name
        self._workerless_s = workerless_s
        self._run = uuid.uuid4().hex[:8]
        self._number = itertools.count()
        self._items: dict[Any, T] = {}
        self._completed = as_completed(loop=connection.client.loop)
        self._size = 0
        self._looked = 0.0
        self._seen_workers = time.monotonic()

    def __len__(self) -> int:
        return len(self._items)

    def has_room(self) -> bool:
        self._look()
        return len(self) < self._size

    def submit(self, item: T) -> None:
        # Dask takes what stands before the first number for the kind of the work, and keeps a record of every kind for
        # as long as it runs: a name there would cost scheduler and workers kilobytes an item.
        key = f"{funcname(self._function)}-{next(self._number)}-{self._run}-{self._name(item)}"
        future = self._connection.client.submit(self._function, item, key=key, pure=False)
        self._items[future] = item
        self._completed.add(future)

    def collect(self, once: bool) -> Iterator[Finished[T] | None]:
        """Give what has come back, None where nothing has; go on until the window is empty unless `once`."""
        while self._items:
            batch = self._completed.next_batch(block=False)
            values = self._fetch_all([future for future in batch if future.status == "finished"])
            for future in batch:
                yield self._judge(future, values)
            if not batch:
                self._look()
                time.sleep(_POLL_S)
                yield None
            if once:
                return

    def cancel(self) -> None:
        """Take back what has not begun."""
        if self._items and self._connection.client.status == "running":
            self._connection.client.cancel(list(self._items))
        self._items.clear()

    def _fetch_all(self, futures: list[Any]) -> dict[Any, Any]:
        """Fetch results together, which costs one answer of the scheduler, not one each; nothing where any is lost."""
        try:
            values = _gather(self._connection.client, futures) if len(futures) > 1 else []
        except Exception:  # which one it is, and what there is to do, is seen when they are fetched one by one
            return {}
        return dict(zip(futures, values, strict=False))

    def _judge(self, future: Any, values: dict[Any, Any]) -> Finished[T] | None:  # noqa: ANN401
        """Say what became of an item; None where its result died with its worker, so that Dask makes it again."""
        item = self._items[future]
        finished: Finished[T] | None = None
        if future in values:
            finished = Finished(item, value=values[future])
        elif future.status == "finished":
            finished = _fetch(self._connection.client, item, future)
        if finished is None and future.status == "error":
            error = future.exception()
            finished = Finished(item, error=error, worker_lost=isinstance(error, KilledWorker))
        if finished is not None:
            del self._items[future]
        elif future.status == "cancelled":
            raise ClusterError(f"the scheduler gave {self._name(item)} up; is it still running?")
        else:
            self._completed.add(future)
        return finished

    def _look(self) -> None:
        """Ask now and then how many threads there are: workers come and go."""
        now = time.monotonic()
        if self._size and now - self._looked < _LOOK_S:
            return
        self._looked = now
        if self._connection.client.status not in ("running", "connecting"):
            raise ClusterError("the scheduler does not answer any more; start it again")
        self._connection.check()
        num_threads = self._connection.num_threads()
        if num_threads:
            self._seen_workers = now
        elif now - self._seen_workers > self._workerless_s:
            raise ClusterError(f"no worker came back within {self._workerless_s:g} s; look at why they die")
        self._size = max(PER_THREAD * num_threads, 1)


def _fetch(client: Client, item: T, future: Any) -> Finished[T] | None:  # noqa: ANN401
    """Fetch a result from its worker; None where that is not to be had."""
    try:
        return Finished(item, value=_gather(client, [future])[0])
    except (OSError, KilledWorker, CancelledError, concurrent.futures.CancelledError):
        # late, or the worker or the scheduler is gone, which `_look` finds out; what the function raised has a status
        return None
    except Exception as error:  # what the function raised when it was run again, or a value that cannot be read
        return Finished(item, error=error)


def _gather(client: Client, futures: list[Any]) -> list[Any]:
    """Fetch results, and raise TimeoutError where they do not come in time.

    What is late goes on behind our back: Dask joins requests, so that cancelling one would cancel others with it.
    """

    async def gather() -> list[Any]:
        return list(await client.gather(futures, asynchronous=True))

    return asyncio.run_coroutine_threadsafe(gather(), client.loop.asyncio_loop).result(_RESULT_S)
