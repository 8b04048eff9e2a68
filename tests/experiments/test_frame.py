"""Arms, subjects, statistics, store and jobs: what every experiment shares."""

import json
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from phantom_corpus import make_corpus
from safetensors.numpy import load_file, save_file

from rephase.corpus.index_writer import write_index
from rephase.data.kspace_slices import KSpaceSlices
from rephase.errors import RequestError
from rephase.experiments.arms import REQUIRED, parse_arm, parse_arms
from rephase.experiments.jobs import run_jobs
from rephase.experiments.leaks import find_leaks
from rephase.experiments.provenance import notes_on
from rephase.experiments.settings import Comparison, StatisticsConfig
from rephase.experiments.slices import ResizedSlices, magnitude, resize
from rephase.experiments.statistics import by_subject, estimate, judge, sanity, share_closed
from rephase.experiments.store import Result, ResultStore, Score, all_jobs
from rephase.experiments.subjects import draw_subjects, read_rows, write_rows
from rephase.manifests.parse import read_manifest
from rephase.numpy_fourier import ifft2c_array

CONFIG = StatisticsConfig()


def test_arms_as_written():
    hybrid = parse_arm("real@10+diffusion")
    assert (hybrid.corpus, hybrid.real_percent, hybrid.corpora) == ("diffusion", 10, ("real", "diffusion"))
    tuned = parse_arm("pretrain:field>real@4")
    assert tuned.label == "pretrain:field > real@4"
    assert (tuned.corpora, tuned.start) == (("real", "field"), parse_arm("field"))
    assert parse_arm("angle").corpora == ("zero",)
    assert [arm.label for arm in parse_arms(["smooth", "real", "smooth"])] == [
        "smooth",
        "real",
        *(name for name in REQUIRED if name != "real"),
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("difusion", "did you mean diffusion?"),
        ("real@0", "expected more than 0"),
        ("real@101", "at most 100"),
        ("real@100+zero", "expected less"),
        ("real@10+real", "not generated"),
        ("pretrain:real>real@4", "not generated"),
        ("pretrain:zero>smooth", "unknown"),
        ("", "expected a phase"),
    ],
)
def test_a_wrong_arm_is_one_line(text, words):
    with pytest.raises(RequestError, match="arm ") as caught:
        parse_arm(text)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_all_wrong_arms_are_told_at_once():
    with pytest.raises(RequestError) as caught:
        parse_arms(["nothing", "zero", "real@0"])
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize("count", [1, 2, 7, 13, 60])
def test_shares_of_the_subjects_are_nested_and_drawn_anew(count):
    subjects = [f"s{number}" for number in range(count)]
    drawn = [draw_subjects(subjects[::-1], percent, 3) for percent in (1, 4, 10, 20, 50, 100)]
    for less, more in pairwise(drawn):
        assert less == more[: len(less)]
    assert [len(one) for one in drawn] == [max(1, int(count * share / 100 + 0.5)) for share in (1, 4, 10, 20, 50, 100)]
    assert sorted(drawn[-1]) == sorted(subjects)
    assert count < 13 or drawn[-1] != draw_subjects(subjects, 100, 4)


def table(seeds=3, subjects=8, offset=0.0, spread=0.01, seed=0):
    random = np.random.default_rng(seed)
    return offset + spread * random.standard_normal((seeds, subjects))


def test_volumes_are_averaged_into_subjects_first():
    subjects, found = by_subject([{"a1": 1.0, "a2": 3.0, "b1": 10.0}], {"a1": "a", "a2": "a", "b1": "b"})
    assert subjects == ["a", "b"]
    assert found.tolist() == [[2.0, 10.0]]


def test_the_interval_of_subjects_is_that_of_the_mean():
    # one seed: a bootstrap over n subjects has the standard error s / sqrt(n), s with divisor n
    values = table(1, 40)
    found = estimate(values, replace(CONFIG, draws=20_000))
    expected = 1.96 * values.std() / np.sqrt(40)
    assert found.mean == pytest.approx(values.mean())
    assert (found.high - found.low) / 2 == pytest.approx(expected, rel=0.03)


def test_seeds_and_subjects_both_widen_the_interval():
    # seed effect a and subject effect b, no interaction: the variance of the mean is var(a) / seeds + var(b) / subjects
    random = np.random.default_rng(1)
    a, b = random.standard_normal(30), random.standard_normal(20)
    found = estimate(a[:, None] + b, replace(CONFIG, draws=20_000))
    expected = 1.96 * np.sqrt(a.var() / 30 + b.var() / 20)
    assert (found.high - found.low) / 2 == pytest.approx(expected, rel=0.03)


def test_no_interval_below_five_subjects():
    assert estimate(table(3, 4), CONFIG).low is None
    assert estimate(table(3, 5), CONFIG).low is not None
    judged = judge(Comparison("smooth", "real", "nmse", "R=8", 0.1), table(3, 4), table(3, 4), CONFIG, True)
    assert (judged.verdict, judged.non_inferior, judged.equivalent) == ("no interval", None, None)


@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize(
    ("shift", "spread", "verdict"),
    [(-1.0, 0.001, "better"), (1.0, 0.001, "worse"), (0.0, 0.001, "equivalent"), (0.0, 1.0, "undecided")],
)
def test_verdicts(lower, shift, spread, verdict):
    base = table(3, 8, 1.0)
    arm = base + (shift if lower else -shift) + table(3, 8, 0.0, spread, 5)
    assert judge(Comparison("smooth", "real", "m", "c", 0.05), arm, base, CONFIG, lower).verdict == verdict


def test_non_inferior_only_if_the_worse_end_is_within_the_margin():
    base, difference = table(1, 12, 1.0), table(1, 12, 0.0, 0.01, 2)
    whole = estimate(difference, CONFIG)
    for margin, expected in ((whole.high * 1.01, True), (whole.high * 0.99, False)):
        judged = judge(Comparison("smooth", "real", "m", "c", margin), base + difference, base, CONFIG, True)
        assert judged.non_inferior is expected
    relative = judge(Comparison("smooth", "real", "m", "c", 0.02, True), base + difference, base, CONFIG, True)
    assert relative.margin == pytest.approx(0.02 * base.mean())


def test_share_of_the_gap():
    zero, real = table(2, 6, 0.3, 0.001), table(2, 6, 0.1, 0.001)
    found = share_closed(zero, 0.25 * zero + 0.75 * real, real, CONFIG)
    assert found.mean == pytest.approx(0.75)
    assert found.low == pytest.approx(0.75)
    assert share_closed(zero, zero, zero + table(2, 6, 0, 1, 3), CONFIG).low is None  # no gap to speak of
    assert np.isnan(share_closed(zero, zero, zero, CONFIG).mean)


def test_the_gate_says_why():
    assert sanity("R=8", 0.3, 0.1, 0.2, True, "zero-filled").measurable
    closed = sanity("R=8", 0.1, 0.2, 0.15, True, "zero-filled")
    assert not closed.measurable
    assert "0.2000" in closed.reason
    assert len(closed.reason.split(";")) == 2
    assert sanity("Dice", 0.2, 0.9, None, False, "").measurable


def manifest(tmp_path, *lines, name="m.csv"):
    path = tmp_path / name
    path.write_text("volume_id,path,phase,subject_id,split,note\n" + "".join(f"{line}\n" for line in lines))
    return path


def test_rows_by_split(tmp_path):
    lines = [f"a{n},a{n}.npy,p.npy,a,train,x" for n in range(9)] + [
        "b1,b.npy,p.npy,b,train,y",
        "c1,c.npy,p.npy,c,test,",
    ]
    rows = read_rows(manifest(tmp_path, *lines), "train", "test", volumes_per_subject=3)
    assert [row.volume_id for row in rows.train] == ["a0", "a4", "a8", "b1"]
    assert rows.magnitudes == rows.train
    path = write_rows(rows.manifest, rows.train, tmp_path / "out" / "w.csv")
    again = list(read_manifest(path, ("note",)))
    assert [(row.volume_id, row.path, row.extra) for row in again[2:]] == [
        ("a8", str(tmp_path / "a8.npy"), (("note", "x"),)),
        ("b1", str(tmp_path / "b.npy"), (("note", "y"),)),
    ]
    others = manifest(tmp_path, "m1,m.npy,,m,,", name="others.csv")
    assert [row.volume_id for row in read_rows(rows.manifest, "train", "test", others).magnitudes] == ["m1"]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["a1,a.npy,p.npy,a,train,"], "no row of split 'test'; it has train"),
        (["a1,a.npy,p.npy,a,,"], "no row of split 'train'; no row has a split"),
        (["a1,a.npy,p.npy,a,train,", "a2,a.npy,p.npy,a,test,"], "a: in training and in test data"),
    ],
)
def test_wrong_splits_are_one_line(tmp_path, lines, words):
    with pytest.raises(RequestError) as caught:
        read_rows(manifest(tmp_path, *lines), "train", "test")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_magnitudes_of_a_test_subject_are_refused(tmp_path):
    path = manifest(tmp_path, "a1,a.npy,p.npy,a,train,", "b1,b.npy,p.npy,b,test,")
    with pytest.raises(RequestError, match=r"others\.csv: b: in training and in test"):
        read_rows(path, "train", "test", manifest(tmp_path, "m1,m.npy,,b,,", name="others.csv"))


@pytest.mark.parametrize(
    ("subjects", "seeds", "words"),
    [(5, 1, ["one seed: the intervals are over test subjects alone"]), (5, 2, []), (4, 1, ["4 test subjects"])],
)
def test_what_few_seeds_and_subjects_do_not_allow_is_a_note(tmp_path, subjects, seeds, words):
    lines = ["a1,a.npy,p.npy,a,train,", *(f"t{n},t.npy,p.npy,t{n},test," for n in range(subjects))]
    notes = notes_on(read_rows(manifest(tmp_path, *lines), "train", "test"), [parse_arm("zero")], seeds, CONFIG)
    assert len(notes) == len(words)
    assert all(note.startswith(word) for note, word in zip(notes, words, strict=True))


@pytest.mark.parametrize("shape", [(24, 24), (16, 25), (11, 31), (40, 13)])
def test_resizing_keeps_intensity_and_place(shape):
    height, width = shape
    y, x = np.mgrid[:height, :width]
    blob = np.exp(-(((y - height // 2) / 3.0) ** 2) - ((x - width // 2) / 3.0) ** 2).astype(np.complex64)
    kspace = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(blob), norm="ortho"))
    found = np.abs(ifft2c_array(resize(kspace.astype(np.complex64), (24, 22))))
    assert np.unravel_index(found.argmax(), found.shape) == (12, 11)
    assert found.max() == pytest.approx(1.0, abs=0.12)  # a cut spectrum lowers a narrow peak


def test_cropped_kspace_has_the_samples_of_the_scanner():
    random = np.random.default_rng(0)
    kspace = (random.standard_normal((3, 16, 14)) + 1j * random.standard_normal((3, 16, 14))).astype(np.complex64)
    found = resize(kspace, (8, 14))
    np.testing.assert_allclose(found, kspace[:, 4:12] * np.sqrt(8 / 16), rtol=1e-6)
    np.testing.assert_allclose(
        magnitude(found), np.sqrt((np.abs(ifft2c_array(found)) ** 2).sum(0)), rtol=1e-5, atol=1e-6
    )


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpus") / "c.zarr"
    sizes = {"a": (16, 12), "b": (20, 12), "c": (8, 8)}
    volumes = {
        name: {"height": h, "width": w, "seed": n, "attributes": {"patient_id": name.upper()}}
        for n, (name, (h, w)) in enumerate(sizes.items())
    }
    write_index(make_corpus(root, **volumes), list(volumes))
    return root


def test_slices_of_one_matrix(corpus):
    slices = ResizedSlices(KSpaceSlices(corpus, subjects=["A", "C"]), (16, 12))
    assert {slices[place][0].shape for place in range(len(slices))} == {(16, 12)}
    assert len(slices.shape_codes()[0]) == 1
    assert slices.subjects() == {"a": "A", "c": "C"}
    assert slices[0][3]["padding_right"] == 12
    turned = ResizedSlices(KSpaceSlices(corpus, subjects=["A"]), (16, 12), random_angle=1)
    angles = [np.angle(np.vdot(slices[place][0], turned[place][0])) for place in range(len(turned))]
    assert len({round(float(angle), 3) for angle in angles}) == len(turned)
    for place in range(len(turned)):
        np.testing.assert_allclose(turned[place][2], slices[place][2], rtol=1e-4, atol=1e-5)


@dataclass(frozen=True)
class Toy:
    """Trains nothing; its weights count the jobs before it."""

    log: str
    stop_at: str = ""

    def run(self, job, weights, start):
        if job.arm.label == self.stop_at:
            raise KeyboardInterrupt
        with Path(self.log).open("a", encoding="utf-8") as file:
            file.write(f"{job.label}\n")
        count = 1.0 if start is None else float(load_file(start)["n"][0]) + 1
        save_file({"n": np.array([count])}, weights)
        score = Score("v", "s", "R=4", {"nmse": count + job.seed})
        return Result([score], [(1, 0.5)], {"n": 1}, {"image": np.ones((2, 2), np.float32)})


JOBS = all_jobs([parse_arm("pretrain:zero>real@4"), parse_arm("zero"), parse_arm("real")], ("unet",), 2, 10, (3, 5))


def test_each_job_once_and_those_that_others_start_from_first():
    assert len(JOBS) == len(set(JOBS)) == 8
    assert all(job.start is None or JOBS.index(job.start) < JOBS.index(job) for job in JOBS)


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.reliability)])
def test_jobs_resume_to_the_same_results(tmp_path, workers):
    whole = run_jobs(JOBS, Toy(str(tmp_path / "log")), ResultStore(tmp_path / "whole", {"a": 1}), workers)
    assert whole[JOBS[1]].scores[0].metrics["nmse"] == 2
    if workers == 2:
        assert sorted((tmp_path / "log").read_text().splitlines()) == sorted(job.label for job in JOBS)
        return
    store = ResultStore(tmp_path / "parts", {"a": 1})
    with pytest.raises(KeyboardInterrupt):
        run_jobs(JOBS, Toy(str(tmp_path / "first"), stop_at="real"), store, 1)
    kept = (tmp_path / "first").read_text().splitlines()
    assert 0 < len(kept) < len(JOBS)
    again = run_jobs(JOBS, Toy(str(tmp_path / "second")), store, 1)
    assert len((tmp_path / "second").read_text().splitlines()) == len(JOBS) - len(kept)
    assert {job: one.scores for job, one in again.items()} == {job: one.scores for job, one in whole.items()}


def test_a_result_counts_for_its_settings_only_and_only_if_it_is_whole(tmp_path):
    store, job = ResultStore(tmp_path, {"a": 1}), JOBS[0]
    run_jobs([job], Toy(str(tmp_path / "log")), store, 1)
    assert store.load(job) is not None
    assert ResultStore(tmp_path, {"a": 2}).load(job) is None
    assert store.load(replace(job, steps=11)) is None
    path = next(tmp_path.glob("*.json"))
    path.write_text(path.read_text()[:-20])
    assert store.load(job) is None


def test_leaks(tmp_path):
    card = tmp_path / "c.json"
    card.write_text(json.dumps({"data": {"sources": ["1", "2", "9"]}}))
    leak = find_leaks("diffusion", card, {"a": "1", "b": "3"}, {"c": "2"})
    assert (leak.train, leak.test, leak.known) == (("a",), ("c",), True)
    assert "TEST volumes (c)" in leak.text
    assert find_leaks("diffusion", card, {"a": "4"}, {}).text == ""
    card.write_text("{}")
    assert "unknown" in find_leaks("diffusion", card, {"a": "1"}, {}).text
    card.write_text("[")
    with pytest.raises(RequestError, match=r"c\.json"):
        find_leaks("diffusion", card, {}, {})
