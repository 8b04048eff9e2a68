"""Run a function over items on a cluster with a bounded number in flight, and find the items that kill workers."""

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
"""Items in flight per thread of the cluster: enough to keep it busy, few enough for the scheduler's memory."""

_POLL_S = 0.02
_RESULT_S = 5.0
_UPDATE_S = 2.0

T = TypeVar("T")


@dataclass(frozen=True)
class Finished(Generic[T]):
    """An item that has finished: with a value, with the error that its function raised, or with its worker lost."""

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

    When a worker dies, Dask counts it against every item assigned to it. So an item that Dask marks as failed is only a
    suspect: it runs once more with no other item running, and is reported as lost if it kills its worker again.

    Parameters
    ----------
    connection
        The cluster.
    function
        A function of an importable module; its argument and result are small.
    items
        Consumed one by one as others finish.
    name
        Returns the unique name of an item on the dashboard.
    workerless_s
        Seconds without any worker after which the run is aborted. Default: that of the connection.
    is_suspect
        Whether an item became a suspect in an earlier run, so that it only runs with no other item running.
    suspect
        Called with an item that has just become a suspect.

    Yields
    ------
    finished
        A finished item, in any order; None periodically while no item finishes, so that a caller can check the time.

    Raises
    ------
    ClusterError
        If the scheduler is lost or no worker rejoins. Items in flight may or may not be done.
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
    """The items in flight."""

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
        self._updated_s = 0.0
        self._had_workers_s = time.monotonic()

    def __len__(self) -> int:
        return len(self._items)

    def has_room(self) -> bool:
        self._update()
        return len(self) < self._size

    def submit(self, item: T) -> None:
        # Dask groups tasks by the text before the first number of their key, and never deletes a group's record: with
        # the name in it, each item would cost scheduler and workers kilobytes
        key = f"{funcname(self._function)}-{next(self._number)}-{self._run}-{self._name(item)}"
        future = self._connection.client.submit(self._function, item, key=key, pure=False)
        self._items[future] = item
        self._completed.add(future)

    def collect(self, once: bool) -> Iterator[Finished[T] | None]:
        """Yield finished items, or None without any; repeat until no item is in flight unless `once`."""
        while self._items:
            batch = self._completed.next_batch(block=False)
            values = self._fetch_all([future for future in batch if future.status == "finished"])
            for future in batch:
                yield self._finish(future, values)
            if not batch:
                self._update()
                time.sleep(_POLL_S)
                yield None
            if once:
                return

    def cancel(self) -> None:
        """Cancel items that have not started."""
        if self._items and self._connection.client.status == "running":
            self._connection.client.cancel(list(self._items))
        self._items.clear()

    def _fetch_all(self, futures: list[Any]) -> dict[Any, Any]:
        """Fetch results in one request to the scheduler, not one each; return an empty result if any is lost."""
        try:
            values = _gather(self._connection.client, futures) if len(futures) > 1 else []
        except Exception:  # found and handled when they are fetched one by one
            return {}
        return dict(zip(futures, values, strict=False))

    def _finish(self, future: Any, values: dict[Any, Any]) -> Finished[T] | None:  # noqa: ANN401
        """Return a finished item; None if its result was lost with its worker, so that Dask runs it again."""
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
            raise ClusterError(f"the scheduler cancelled {self._name(item)}; expected it to run; check the scheduler")
        else:
            self._completed.add(future)
        return finished

    def _update(self) -> None:
        """Update the size of the window periodically, since workers join and leave."""
        now = time.monotonic()
        if self._size and now - self._updated_s < _UPDATE_S:
            return
        self._updated_s = now
        if self._connection.client.status not in ("running", "connecting"):
            raise ClusterError("the scheduler no longer answers; expected it to run; start it again")
        self._connection.check()
        num_threads = self._connection.num_threads()
        if num_threads:
            self._had_workers_s = now
        elif now - self._had_workers_s > self._workerless_s:
            raise ClusterError(
                f"no worker came back within {self._workerless_s:g} s; expected at least one; check why they die"
            )
        self._size = max(PER_THREAD * num_threads, 1)


def _fetch(client: Client, item: T, future: Any) -> Finished[T] | None:  # noqa: ANN401
    """Fetch a result from its worker; return None if it is late or lost."""
    try:
        return Finished(item, value=_gather(client, [future])[0])
    except (OSError, KilledWorker, CancelledError, concurrent.futures.CancelledError):
        # late, or the worker or scheduler is lost, which `_update` notices; an error of the function has its own status
        return None
    except Exception as error:  # raised by the function when it ran again, or a value that cannot be unpickled
        return Finished(item, error=error)


def _gather(client: Client, futures: list[Any]) -> list[Any]:
    """Fetch results; raises TimeoutError if they are late.

    A late request continues in the background: Dask merges requests, so cancelling one would cancel others.
    """

    async def gather() -> list[Any]:
        return list(await client.gather(futures, asynchronous=True))

    return asyncio.run_coroutine_threadsafe(gather(), client.loop.asyncio_loop).result(_RESULT_S)
