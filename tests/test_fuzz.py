"""Hostile files: never a crash, a hang, memory beyond the limit, or a plausible but wrong volume."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fuzz.cases import SHARES, Case, make_case, run_case
from fuzz.judge import judge
from fuzz.mutate import Plan, Step, change_names, mutated
from fuzz.oracle import difference
from fuzz.pool import run_cases
from fuzz.seeds import TARGETS, seeds
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rephase.manifests.record import ManifestRow
from rephase.readers.registry import read_volume

FAULT = "hostile input"


@st.composite
def cases(draw: st.DrawFn) -> Case:
    target = draw(st.sampled_from(TARGETS))
    seed = draw(st.sampled_from(seeds(target)))
    step = st.builds(
        Step, st.sampled_from(change_names(target)), st.floats(0, 1, exclude_max=True), st.integers(0, 2**32 - 1)
    )
    return Case(
        0, seed, draw(st.builds(Plan, st.floats(0, 1, exclude_max=True), st.tuples(step) | st.tuples(step, step)))
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@pytest.mark.parametrize("target", TARGETS)
def test_what_is_sound_is_read_as_the_oracle_reads_it(target, folder):
    for seed in seeds(target):
        verdict = run_case(Case(0, seed, Plan(0.0, ())), folder)
        known_unfit = seed.name in ("anatomical.nii", "example_nifti2.nii.gz", "siemens")
        assert verdict.fault is None, (seed.name, verdict)
        assert known_unfit or seed.name.startswith("data/") or verdict.outcome in ("read", "sound"), (
            seed.name,
            verdict,
        )


@settings(
    max_examples=120, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck),
)  # fmt: skip
@given(case=cases())
def test_mutations_are_refused_or_read_as_the_oracle_reads_them(folder, case):
    verdict = run_case(case, folder)
    assert verdict.fault is None, (case.describe(), verdict)


def test_a_seeded_run_finds_no_fault(record_property):
    record_property("fault", FAULT)
    results = list(run_cases(11, range(160), workers=1))
    record_property("cases", len(results))
    assert [result for result in results if result.verdict.fault is not None] == []
    assert len({make_case(11, result.number).seed.target for result in results}) == len(SHARES)


@pytest.mark.reliability
def test_the_pool_sees_crash_hang_and_hunger():
    # only the one that never ends stands under the short limit: the first case of a child has a long one
    results = {result.number: result.verdict for result in run_cases(11, [-3, -2], 1, seconds=2.0)}
    assert "more than before" in results[-3].fault
    assert "no end" in results[-2].fault
    results = {result.number: result.verdict for result in run_cases(11, [-1, 0], 1)}
    assert "SIGABRT" in results[-1].fault
    assert results[0].fault is None


@pytest.mark.parametrize("name", ["int16.nii", "f4", "plain", "classic", "enhanced", "mosaic"])
def test_the_oracle_sees_one_wrong_voxel(name, tmp_path):
    seed = next(seed for target in TARGETS for seed in seeds(target) if seed.name == name)
    if name == "plain" and seed.target != "hdf5":
        seed = next(one for one in seeds("hdf5") if one.name == name)
    for key, data in seed.files.items():
        (tmp_path / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / key).write_bytes(data)
    row = ManifestRow(line=2, volume_id="v", path=str(tmp_path / seed.path), format=seed.target, **seed.row)
    volume = read_volume(row)
    assert difference(seed.target, row, volume) is None
    volume.magnitude[1, 2, 3] += 0.5
    assert difference(seed.target, row, volume) is not None


def test_a_case_is_the_same_every_time(monkeypatch):
    for number in range(30):
        first, second = make_case(3, number), make_case(3, number)
        assert first == second
        bytes_now = mutated(first.seed, first.plan)
        with monkeypatch.context() as later:
            later.setattr("time.time", lambda: 2e9)  # gzip writes the time into its header unless it is told one
            assert mutated(second.seed, second.plan) == bytes_now
    assert make_case(3, 1) != make_case(4, 1)


def test_changes_of_a_manifest_together_make_no_text_without_measure():
    longest = 0
    for seed in seeds("manifest"):
        for first in range(12):
            for second in range(12):
                steps = tuple(Step("manifest_text", 0.5, number) for number in (first, second, 4, 9))
                longest = max(longest, *map(len, mutated(seed, Plan(0.0, steps)).values()))
    assert 1 << 16 < longest < 10_000_000


def test_a_wrong_slice_of_the_loader_would_be_a_fault(tmp_path):
    from rephase.corpus.index_writer import write_index
    from rephase.corpus.store import CorpusStore

    seed = seeds("store")[0]
    for key, data in seed.files.items():
        (tmp_path / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / key).write_bytes(data)
    assert judge(seed, tmp_path).outcome == "sound"
    store = CorpusStore.open(tmp_path / seed.path)
    receipt = dict(store.receipt("a"), patient_id="another")
    store.storage.put("volumes/a/zarr.json", _group(receipt))
    write_index(store, ["a", "b"])
    assert "wrong slices" in str(judge(seed, tmp_path).fault)


def _group(attributes):
    from rephase.corpus.layout import group_document

    return group_document(attributes)


def test_mutations_reach_the_whole_file():
    seed = seeds("npy")[0]
    data = next(iter(seed.files.values()))
    touched = set()
    for number in range(400):
        plan = Plan(0.0, (Step("flip", number / 400, number),))
        changed = next(iter(mutated(seed, plan).values()))
        touched |= set(np.flatnonzero(np.frombuffer(changed, np.uint8) != np.frombuffer(data, np.uint8)).tolist())
    assert max(touched) > 0.9 * len(data) and min(touched) < 0.1 * len(data)
    assert len(touched) > 200


@pytest.mark.reliability
def test_the_long_run_writes_what_it_found(tmp_path, capsys):
    from fuzz.__main__ import main

    assert main(["--cases", "6", "--seed", "5", "-o", str(tmp_path / "r.json")]) == 0
    assert "6 cases, 0 faults" in capsys.readouterr().out
    assert Path(tmp_path / "r.json").is_file()
