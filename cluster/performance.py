"""Dask's own report of a run, one HTML file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from distributed import Client, performance_report

from rephase.cluster.errors import ClusterError
from rephase.text import one_line


def check_report(path: Path | None) -> None:
    """Check that a report can be written before anything starts; raises ClusterError."""
    if path is None:
        return
    if not path.absolute().parent.is_dir() or path.is_dir():
        raise ClusterError(f"--performance-report {path}: expected a file in a folder that exists; make the folder")
    try:
        import bokeh  # noqa: F401
    except ImportError:
        raise ClusterError("--performance-report needs bokeh; pip install bokeh, or leave the option out") from None


@contextmanager
def reporting(client: Client, path: Path | None, say: Callable[[str], None]) -> Iterator[None]:
    """Watch the block and write the report at its end; what goes wrong with that is one line, not a failed build."""
    if path is None:
        yield
        return
    with client.as_current(), ExitStack() as stack:
        stack.enter_context(performance_report(filename=str(path)))
        inner = stack.pop_all()
        try:
            yield
        finally:
            try:
                inner.close()
                say(f"performance report: {path}")
            except Exception as error:
                say(f"no performance report: {one_line(error)}")
