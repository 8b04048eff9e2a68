"""`rephase report`: one HTML file that shows what a corpus holds, how it was made, and pictures of it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from rephase.builder.run_state import read_run_states
from rephase.corpus.storage.base import run_folder
from rephase.corpus.store import CorpusStore
from rephase.errors import RequestError
from rephase.files import replacing
from rephase.reports import sections
from rephase.reports.facts import gather_facts, list_failures
from rephase.reports.gallery import gallery
from rephase.reports.html import document, element
from rephase.reports.samples import choose_volumes
from rephase.text import is_url

__all__ = ["write_report"]

DEFAULT_VOLUMES = 8
"""Volumes that are shown with pictures."""

_CONTENTS = (
    ("built", "What was built"),
    ("pictures", "Pictures"),
    ("sources", "From what"),
    ("recipe", "With which recipe"),
    ("speed", "How fast"),
    ("failures", "What failed"),
    ("audit", "Audit flags"),
)


def write_report(
    root: str | os.PathLike[str],
    out: Path | None = None,
    *,
    num_volumes: int = DEFAULT_VOLUMES,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write the report of a corpus: one HTML file without any outside resource.

    Parameters
    ----------
    root
        Path or URL of the corpus, finished or not.
    out
        The file; `<corpus>.run/report.html` beside the corpus where None.
    num_volumes
        Volumes that are shown with pictures: the same ones every time, spread over contrasts and matrices.
    progress
        Called with (receipts read, receipts in all).

    Returns
    -------
    out
        The file that was written.

    Raises
    ------
    RequestError
        If there is no corpus, or `out` is inside it or has no place.
    """
    store = CorpusStore.open(root)
    path = _place(store.root, out)
    facts = gather_facts(store, progress)
    failed, runs = list_failures(store.root), read_run_states(store.root)
    body = element(
        "main",
        sections.built(facts, failed),
        gallery(store, choose_volumes(facts.candidates, num_volumes), facts.num_volumes),
        sections.sources(facts),
        sections.recipe(facts),
        sections.speed(runs),
        sections.failures(failed, {one.name for one in facts.candidates}),
        sections.audit(facts),
    )
    head = sections.head(facts, failed, runs, _CONTENTS)
    page = document(f"{facts.title} – rephase report", head, body, sections.foot(time.time()))
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_text(page, encoding="utf-8")
    return path


def _place(root: str, out: Path | None) -> Path:
    if out is None:
        if is_url(root):
            raise RequestError(f"{root}: a corpus behind a URL; expected a local file for its report; give -o FILE")
        return Path(run_folder(root)) / "report.html"
    if out.is_dir():
        raise RequestError(f"{out}: is a folder; expected a file for the report; give -o {out / 'report.html'}")
    if not is_url(root) and Path(root).resolve() in out.resolve().parents:
        raise RequestError(f"{out}: inside the corpus, where only Zarr may be; choose a place beside it")
    return out
