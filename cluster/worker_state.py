"""State that every worker process makes once and its tasks share: a model, a lock, an open store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from distributed import Client, WorkerPlugin, get_worker
from distributed.worker import Worker

from rephase.cluster.errors import ClusterError

_UNLIKE = ("ModuleNotFoundError(", "ImportError(", "AttributeError(")


class StatePlugin(WorkerPlugin):  # type: ignore[misc]  # Dask has no types
    """Calls `setup(*arguments)` once in every worker process, also in one that joins late or was started again.

    What it returns stays in the process; `worker_state(name)` gives it to the tasks. A worker whose setup raises does
    not join. `setup` must be importable in the workers (a function of a module, not of `__main__`).
    """

    def __init__(self, name: str, setup: Callable[..., Any], arguments: tuple[Any, ...] = ()) -> None:
        self.name = name
        self._setup = setup
        self._arguments = arguments
        self.state: Any = None

    async def setup(self, worker: Worker) -> None:
        """Make the state in a thread: loading a model would keep the worker from answering its scheduler."""
        self.state = await asyncio.to_thread(self._setup, *self._arguments)

    def teardown(self, worker: Worker) -> None:
        """Let go of the state."""
        self.state = None


def install_state(client: Client, name: str, setup: Callable[..., Any], arguments: tuple[Any, ...] = ()) -> None:
    """Make the state on every worker of the cluster, now and later.

    Raises
    ------
    Exception
        What `setup` raised on a worker.
    """
    client.register_plugin(StatePlugin(name, setup, arguments), name=name)


def remove_state(client: Client, name: str) -> None:
    """Let the workers forget the state; a cluster that was there before stays as it was."""
    client.unregister_worker_plugin(name)


def worker_state(name: str) -> Any:  # noqa: ANN401
    """Give the state of the worker that runs this task.

    Raises
    ------
    ClusterError
        Outside of a task, or where the state was never made.
    """
    try:
        plugin = get_worker().plugins.get(name)
    except ValueError:
        plugin = None
    if not isinstance(plugin, StatePlugin) or plugin.state is None:
        raise ClusterError(f"this process has no state {name!r}; expected a worker on which it was installed")
    return plugin.state


def ask_workers(client: Client, question: Callable[[], Any]) -> dict[str, Any]:
    """Call a function of an importable module once in every worker; answers by worker address.

    Raises
    ------
    ClusterError
        If workers cannot import or run it.
    """
    try:
        answers: dict[str, Any] = client.run(question)
    except Exception as error:
        # where the question's module is missing, Dask brings the error as the text of a plain Exception
        if isinstance(error, ImportError | AttributeError) or str(error).startswith(_UNLIKE):
            raise ClusterError(
                f"workers cannot run this program ({error}); install the same version of it there"
            ) from None
        raise
    return answers
