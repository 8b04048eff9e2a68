"""`rephase report`: one HTML file about a corpus, with its contents, recipe, speed, failures and images."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from rephase.builder.run_state import read_run_states
from rephase.corpus.storage.base import run_folder
from rephase.corpus.store import CorpusStore
from rephase.errors import RequestError
from rephase.files import private_folder, replacing
from rephase.pages import render
from rephase.pictures import colour_wheel
from rephase.reports import distributions, sections
from rephase.reports.facts import UNKNOWN, gather_facts, list_failures
from rephase.reports.gallery import gallery, montage
from rephase.reports.samples import choose_volumes
from rephase.text import is_url

__all__ = ["write_report"]

DEFAULT_VOLUMES = 8
"""Number of volumes shown with images."""
MONTAGE_VOLUMES = 48

_TITLES = {
    "corpus": "Corpus",
    "citation": "How to cite",
    "distributions": "Distributions",
    "montage": "Montage",
    "images": "Images",
    "volumes": "Table of volumes",
    "sources": "Sources",
    "recipe": "Recipe",
    "speed": "Speed",
    "failures": "Failures",
    "audit": "Audit flags",
}
_DESCRIBED = (
    "Contrast",
    "Pulse sequence",
    "Range of the training data",
    "Split",
    "Anatomy",
    "Field strength",
    "Matrix",
    "Orientation",
    "Phase encoding",
)


def write_report(
    root: str | os.PathLike[str],
    out: Path | None = None,
    *,
    num_volumes: int = DEFAULT_VOLUMES,
    compare: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write the report of a corpus: one HTML file without external resources.

    Parameters
    ----------
    root
        Path or URL of the corpus, complete or not.
    out
        Path of the file. Default: `<corpus>.run/report.html` next to the corpus.
    num_volumes
        Number of volumes shown with images: always the same ones, spread over contrasts and matrix sizes.
    compare
        Path or URL of another corpus, which the report compares with this one.
    progress
        Called with (receipts read, receipts in total).

    Returns
    -------
    out
        Path of the file.

    Raises
    ------
    RequestError
        If there is no corpus, or `out` is inside it or cannot be written.
    """
    store = CorpusStore.open(root)
    path = output_path(store.root, out, "report.html")
    second = None if compare is None else CorpusStore.open(compare)
    facts = gather_facts(store, progress)
    other = None if second is None else gather_facts(second, progress)
    failed, runs = list_failures(store.root), read_run_states(store.root)
    tallies = facts.tallies | {"Reason": Counter(one.reason for one in failed)}
    page = render(
        "report.html",
        facts=facts,
        titles=_TITLES if other is None else {"comparison": "Comparison", **_TITLES},
        other=other,
        comparison=[] if other is None else list(distributions.compare(facts, other)),
        histograms=distributions.histograms(facts, other),
        outliers=distributions.outliers(facts),
        most_outliers=distributions.MOST_OUTLIERS,
        rows=distributions.volume_rows(facts),
        montage=montage(store, choose_volumes(facts.candidates, MONTAGE_VOLUMES if num_volumes else 0)),
        citation=sections.citation(facts),
        state=sections.state(facts, failed, runs),
        tiles=sections.tiles(facts, failed),
        tallies={heading: sections.tally(counts) for heading, counts in tallies.items()},
        described=[one for one in _DESCRIBED if one in tallies and set(tallies[one]) != {UNKNOWN}],
        ranges=[(name, f"{low:.4g}", f"{high:.4g}", f"{count:,}") for name, (low, high, count) in facts.ranges.items()],
        images=gallery(store, choose_volumes(facts.candidates, num_volumes)),
        wheel=colour_wheel(),
        recipe=sections.recipe(facts),
        environments=sections.environments(facts),
        runs=sections.runs(runs),
        stages=sections.stages(runs),
        failures=sections.failures(failed, {one.name for one in facts.candidates}),
        num_failed=len(failed),
        flags=sections.flags(facts),
        now=time.time(),
    )
    if out is None:
        private_folder(path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_text(page, encoding="utf-8")
    return path


def output_path(root: str, out: Path | None, default: str) -> Path:
    """Return the path of a page: `out`, else a file of this name in the folder beside the corpus.

    Raises
    ------
    RequestError
        If no page can be written there.
    """
    if out is None:
        if is_url(root):
            raise RequestError(f"{root}: is a URL; expected a local file for its page; use -o FILE")
        return Path(run_folder(root)) / default
    if out.is_dir():
        raise RequestError(f"{out}: is a directory; expected a file for the page; use -o {out / default}")
    if not is_url(root) and Path(root).resolve() in out.resolve().parents:
        raise RequestError(f"{out}: is inside the corpus; expected a path outside; choose one beside it")
    return out
