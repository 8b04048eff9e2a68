"""Distributions, outliers, the table of volumes and the comparison of two corpora."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from phantom_corpus import make_corpus

from rephase.corpus.store import CorpusStore
from rephase.reports.distributions import compare, histograms, outliers, volume_rows
from rephase.reports.facts import CorpusFacts, gather_facts
from rephase.reports.report import write_report


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("distributions")
    many: dict = {f"v{number}": {"seed": number, "attributes": {"te_ms": 5.0 + number % 3}} for number in range(9)}
    many["odd"] = {"seed": 9, "attributes": {"te_ms": 900.0}}
    many["v0"]["attributes"] = {"te_ms": None, "audit": {"lossy": "JPEG"}}
    make_corpus(folder / "a.zarr", **many)
    make_corpus(folder / "b.zarr", other={"seed": 1, "attributes": {"te_ms": 40.0, "contrast": "T2"}})
    return folder / "a.zarr", folder / "b.zarr"


def facts_of(root: Path) -> CorpusFacts:
    return gather_facts(CorpusStore.open(root))


def test_values_stand_in_the_order_of_the_volumes(roots: tuple[Path, Path]) -> None:
    facts = facts_of(roots[0])
    values = dict(zip([one.name for one in facts.candidates], facts.values["Echo time (ms)"], strict=True))
    assert values["odd"] == 900.0 and values["v4"] == 6.0 and np.isnan(values["v0"])


def test_the_volume_far_from_the_others_is_found(roots: tuple[Path, Path]) -> None:
    found = outliers(facts_of(roots[0]))
    assert [row[:4] for row in found] == [("odd", "Echo time (ms)", "900", "6")]
    assert outliers(facts_of(roots[1])) == []


def test_histograms_are_shares_in_common_bins(roots: tuple[Path, Path]) -> None:
    first, second = map(facts_of, roots)
    (echo,) = [one for one in histograms(first, second) if one.title == "Echo time (ms)"]
    heights = sum(height for *_, height in echo.bars), sum(height for *_, height in echo.other)
    assert heights[0] == pytest.approx(heights[1])
    assert [text for _, text in echo.ticks] == ["5", "452.5", "900"]
    assert "Slices per volume" not in {one.title for one in histograms(first)}  # equal in all of them


def test_two_corpora_are_compared(roots: tuple[Path, Path]) -> None:
    rows = {heading: (one, other) for heading, one, other in compare(*map(facts_of, roots))}
    assert rows["Volumes"] == ("10", "1") and rows["Contrast"] == ("T1 100%", "T2 100%")
    assert rows["Echo time (ms)"][1] == "40 (5 to 95 %: 40 to 40)" and rows["Flag lossy"] == ("1", "0")


def test_the_page_has_them(roots: tuple[Path, Path], tmp_path: Path) -> None:
    page = write_report(roots[0], tmp_path / "r.html", compare=roots[1]).read_text()
    assert '<rect class="two"' in page and 'id="comparison"' in page
    assert len(re.findall(r'<th scope="row">(?:<a href="#volume-[^"]+">)?(?:v\d|odd)', page)) >= 10
    assert page.count('href="#volume-') == page.count('class="volume" id="volume-') == 8
    assert "Magnitude at row" in page and "arXiv 2504.07560" in page
    assert page.count('<span class="frame">') == 20
    assert [row[0] for row in volume_rows(facts_of(roots[1]))] == ["other"]
