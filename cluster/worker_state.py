"""State that is created once per worker process and shared by its tasks: a model, a lock, an open store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from distributed import Client, WorkerPlugin, get_worker
from distributed.worker import Worker

from rephase.cluster.errors import ClusterError

_UNLIKE = ("ModuleNotFoundError(", "ImportError(", "AttributeError(")


class StatePlugin(WorkerPlugin):  # type: ignore[misc]  # Dask has no types
    """Calls `setup(*arguments)` once in every worker process, also in one that joins later or is restarted.

    Tasks obtain its result by `worker_state(name)`. A worker whose setup raises does not join. `setup` must be
    importable in the workers: a function of a module, not of `__main__`.
    """

    def __init__(self, name: str, setup: Callable[..., Any], arguments: tuple[Any, ...] = ()) -> None:
        self.name = name
        self._setup = setup
        self._arguments = arguments
        self.state: Any = None

    async def setup(self, worker: Worker) -> None:
        """Create the state in a thread, since loading a model would block the worker's event loop."""
        self.state = await asyncio.to_thread(self._setup, *self._arguments)

    def teardown(self, worker: Worker) -> None:
        """Release the state."""
        self.state = None


def install_state(client: Client, name: str, setup: Callable[..., Any], arguments: tuple[Any, ...] = ()) -> None:
    """Create the state on every worker of the cluster, also on those that join later.

    Raises
    ------
    Exception
        The exception that `setup` raised on a worker.
    """
    client.register_plugin(StatePlugin(name, setup, arguments), name=name)


def remove_state(client: Client, name: str) -> None:
    """Remove the state from the workers, for a cluster that continues to run."""
    client.unregister_worker_plugin(name)


def worker_state(name: str) -> Any:  # noqa: ANN401
    """Return the state of the worker that runs this task.

    Raises
    ------
    ClusterError
        Outside a task, or if the state was not installed.
    """
    try:
        plugin = get_worker().plugins.get(name)
    except ValueError:
        plugin = None
    if not isinstance(plugin, StatePlugin) or plugin.state is None:
        raise ClusterError(f"state {name!r}: not in this process; expected a worker on which it was installed")
    return plugin.state


def ask_workers(client: Client, question: Callable[[], Any]) -> dict[str, Any]:
    """Call a function of an importable module once in every worker; return the results by worker address.

    Raises
    ------
    ClusterError
        If workers cannot import it.
    """
    try:
        answers: dict[str, Any] = client.run(question)
    except Exception as error:
        # if a worker lacks the function's module, Dask raises a plain Exception with the error's text
        if isinstance(error, ImportError | AttributeError) or str(error).startswith(_UNLIKE):
            raise ClusterError(
                f"workers cannot run this program ({error}); expected the same version on every worker; install it"
            ) from None
        raise
    return answers
