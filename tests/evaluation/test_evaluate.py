import itertools
import json
import re

import numpy as np
import pytest
import torch

from rephase.cli import main
from rephase.config import read_config
from rephase.diffusion.registry import make_generator
from rephase.diffusion.shipped import shipped_weights
from rephase.errors import RequestError
from rephase.evaluation.candidates import Candidate, CandidateOptions, make_candidates
from rephase.evaluation.comparison import closed_gaps, compare, find_ties, noninferiority
from rephase.evaluation.config import DEFAULT, EvaluationConfig
from rephase.evaluation.metrics import METRIC_NAMES
from rephase.evaluation.run import Request, evaluate
from rephase.evaluation.sampling import Sampler, decode, encode
from rephase.evaluation.scores import FLOOR, Score
from rephase.evaluation.sessions import choose_slices, read_real
from rephase.evaluation.tables import markdown
from rephase.manifests.parse import read_manifest

CONFIG = read_config(DEFAULT, EvaluationConfig)
NOTHING = dict.fromkeys(METRIC_NAMES, float("nan"))


@pytest.fixture
def manifest(tmp_path):
    """Two echoes of a smooth phase, one session, and a lone volume of zero phase."""
    y, x = np.mgrid[-1:1:32j, -1:1:32j].astype(np.float32)
    magnitude = np.exp(-2 * (x**2 + y**2)).astype(np.float32)[None].repeat(3, 0)
    np.save(tmp_path / "m.npy", magnitude)
    for name, factor in (("e1", 1.0), ("e2", 1.2), ("none", 0.0)):
        np.save(tmp_path / f"{name}.npy", np.angle(np.exp(1j * factor * (2 * x + 3 * y * y)))[None].repeat(3, 0))
    path = tmp_path / "pairs.csv"
    path.write_text(
        "volume_id,path,phase,subject_id,split,anatomy,person\na1,m.npy,e1.npy,a,val,abdomen,p\n"
        "a2,m.npy,e2.npy,a,val,abdomen,p\nb1,m.npy,none.npy,b,val,Brain,p\n"
        "t1,m.npy,e1.npy,t,train,,q\nx1,gone.npy,e1.npy,x,test,,q\n"
    )
    return path


def baselines(*names):
    return [Candidate(name, make_generator(name)) for name in names]


def scores(manifest, *names):
    result = evaluate(Request(manifest, "val", classifier=False), baselines(*names), CONFIG)
    return {(one.session, one.generator): one for one in result.scores}


class Counting:
    """A generator that claims a network, and counts the slices that it is asked for."""

    name, nfe, families = "counting", 3, None

    def __init__(self):
        self.inner, self.count, self.limit = make_generator("white"), 0, 10**9

    def sample_phase(self, magnitude, keys, conditions):
        if self.count >= self.limit:
            raise KeyboardInterrupt
        self.count += len(keys)
        return self.inner.sample_phase(magnitude, keys, conditions)


def test_white_phase_is_farther_from_a_smooth_one_than_zero(manifest):
    table = scores(manifest, "zero", "white")
    assert table["a", "white"].distances["gradient"] > 3 * table["a", "zero"].distances["gradient"]
    assert table["a", "white"].distances["residues"] > 200 > table["a", "zero"].distances["residues"]


def test_a_generator_that_gives_the_real_phase_has_no_distance(manifest):
    one = scores(manifest, "zero")["b", "zero"]
    assert all(value < 1e-6 for value in one.distances.values()), one.distances


def test_only_sessions_of_several_volumes_have_a_floor(manifest):
    table = scores(manifest, "zero")
    assert 0 < table["a", FLOOR].distances["gradient"] < table["a", "zero"].distances["gradient"]
    assert table["a", FLOOR].diversity > 0
    assert ("b", FLOOR) not in table


def test_brain_sessions_are_descriptive(manifest):
    table = scores(manifest, "zero")
    assert table["b", "zero"].descriptive and not table["a", "zero"].descriptive


def test_diversity_is_none_for_zero_phase_and_large_for_white_phase(manifest):
    table = scores(manifest, "zero", "white")
    assert table["a", "zero"].diversity == pytest.approx(0, abs=1e-6) and table["a", "white"].diversity > 0.3


@pytest.mark.parametrize(
    ("count", "limit"), [(18, 8), (11, 4), (5, 2), (7, 3), (4, 8), (9, 0), (1, 1), (3, 2), (200, 1)]
)
def test_chosen_slices_are_neighbouring_pairs_inside_the_volume(count, limit):
    chosen = choose_slices(count, limit)
    assert len(chosen) == (min(limit, count) or count) and len(set(chosen)) == len(chosen)
    assert list(chosen) == sorted(chosen) and chosen[0] >= 0 and chosen[-1] < count
    if limit > 1:
        assert sum(b - a == 1 for a, b in itertools.pairwise(chosen)) >= len(chosen) // 2


def test_samples_are_kept_to_16_bits_and_zero_exactly():
    assert np.array_equal(decode(encode(np.ones(3, np.complex64))), np.ones(3, np.complex64))
    phasor = np.exp(1j * np.linspace(-np.pi, np.pi, 999)).astype(np.complex64)
    assert np.abs(decode(encode(phasor)) - phasor).max() < 1e-4
    assert np.array_equal(encode(decode(encode(phasor))), encode(phasor))


def test_what_was_sampled_is_not_sampled_again(manifest, tmp_path):
    one = Candidate("counting, nfe 3", Counting(), "hash")
    volume = read_real(next(iter(read_manifest(manifest))), 0)
    first = Sampler(tmp_path / "s").sample_codes(one, volume, 0)
    assert one.generator.count == 3
    assert np.array_equal(Sampler(tmp_path / "s").sample_codes(one, volume, 0), first) and one.generator.count == 3
    other = Candidate("counting, nfe 3", one.generator, "another hash")
    Sampler(tmp_path / "s").sample_codes(other, volume, 0)
    assert one.generator.count == 6
    Sampler(tmp_path / "s").sample_codes(one, volume, 1)
    assert one.generator.count == 9


def test_a_damaged_sample_is_sampled_again(manifest, tmp_path):
    one = Candidate("counting, nfe 3", Counting())
    volume = read_real(next(iter(read_manifest(manifest))), 0)
    first = Sampler(tmp_path / "s").sample_codes(one, volume, 0)
    files = sorted((tmp_path / "s").rglob("*.npy"))
    files[0].write_bytes(files[0].read_bytes()[:100])
    files[1].write_bytes(b"")
    assert np.array_equal(Sampler(tmp_path / "s").sample_codes(one, volume, 0), first) and one.generator.count == 5


def test_an_interrupted_evaluation_is_resumed(manifest, tmp_path):
    one = Candidate("counting, nfe 3", Counting())
    one.generator.limit = 4
    request = Request(manifest, "val", output=tmp_path / "out", classifier=False)
    with pytest.raises(KeyboardInterrupt):
        evaluate(request, [one], CONFIG)
    one.generator.limit = 10**9
    resumed = evaluate(request, [one], CONFIG)
    fresh = Candidate("counting, nfe 3", Counting())
    plain = evaluate(Request(manifest, "val", output=tmp_path / "fresh", classifier=False), [fresh], CONFIG)
    assert one.generator.count == fresh.generator.count  # what was made before the interrupt was not made again
    assert resumed.to_json()["scores"] == plain.to_json()["scores"]


def made(session, generator, value, descriptive=False, **others):
    return Score(
        session, generator, NOTHING | dict.fromkeys(METRIC_NAMES, value) | others, NOTHING, 0.0, 1, 1, descriptive
    )


def test_closed_gap_is_the_part_of_the_way_to_the_floor():
    table = [made("a", "smooth", 11.0), made("a", FLOOR, 1.0), made("a", "model", 3.0), made("a", "bad", 16.0)]
    found = {(one.metric, one.generator): one.percent for one in closed_gaps(table, CONFIG)}
    assert found["gradient", "model"] == pytest.approx(80) and found["residues", "bad"] == pytest.approx(-50)
    assert ("spectrum", "model") not in found
    level = [made("a", "smooth", 1.0), made("a", FLOOR, 1.0), made("a", "model", 3.0)]
    assert {one.percent for one in closed_gaps(level, CONFIG)} == {None}


def test_differences_have_signs_and_intervals_only_with_enough_sessions():
    few = [made(f"s{i}", name, value + i) for i in range(7) for name, value in (("model", 1.0), ("smooth", 3.0))]
    line = compare(few, CONFIG, "model", "smooth")[0]
    assert set(line.by_session.values()) == {-2.0} and line.mean == -2.0 and line.low is None
    many = [*few, made("s7", "model", 5.0), made("s7", "smooth", 3.0)]
    line = compare(many, CONFIG, "model", "smooth")[0]
    assert line.mean == -1.5 and -2.0 <= line.low < -1.5 < line.high <= 0.0


def test_descriptive_sessions_are_reported_but_do_not_decide():
    table = [made("a", "model", 1.0), made("a", "smooth", 3.0)]
    table += [made("head", "model", 9.0, True), made("head", "smooth", 3.0, True)]
    line = compare(table, CONFIG, "model", "smooth")[0]
    assert line.by_session == {"a": -2.0, "head": 6.0} and line.mean == -2.0
    assert all(one.no_worse for one in noninferiority(table, CONFIG, "model", "smooth"))


def test_with_few_sessions_each_must_be_within_the_margin():
    margin = CONFIG.noninferiority.margins["gradient"]
    table = [
        made("a", "fast", 1.0),
        made("a", "slow", 2.0),
        made("b", "fast", 1.0 + 2 * margin),
        made("b", "slow", 1.0),
    ]
    found = {one.metric: one for one in noninferiority(table, CONFIG, "fast", "slow")}
    assert found["gradient"].no_worse is False and found["residues"].no_worse is True
    assert found["gradient"].worst == pytest.approx(2 * margin) and found["gradient"].difference < 0


def test_ties_with_baselines_are_listed():
    table = [made("a", "model", 1.0), made("a", "smooth", 30.0, gradient=1.005), made("a", "zero", 30.0, residues=-1.0)]
    lines = find_ties(table, CONFIG, ["model"], ["smooth", "zero"])
    assert len(lines) == 2
    assert lines[0].startswith("smooth ties with model on gradient") and lines[1].startswith(
        "zero beats model on resid"
    )


def test_folder_holds_json_tables_and_a_page_with_every_picture(manifest, tmp_path, capsys):
    out = tmp_path / "out"
    words = [
        "--real",
        str(manifest),
        "--split",
        "val",
        "--generators",
        "smooth,zero",
        "--no-classifier",
        "-o",
        str(out),
    ]
    assert main(["evaluate", "phase", *words]) == 0
    text = capsys.readouterr().out
    assert text == (out / "evaluation.md").read_text() and "| b * (3 slices) | zero |" in text
    data = json.loads((out / "evaluation.json").read_text())
    assert data["machine"]["torch"] and len(data["settings"]["manifest_sha256"]) == 64
    assert {one["generator"] for one in data["scores"]} == {"real", FLOOR, "smooth", "zero"}
    page = (out / "evaluation.html").read_text()
    assert len(re.findall(r"<figure>", page)) == 2 * (2 + 2)  # sessions x (magnitude, real, generators)
    assert "http" not in page.replace("http://www.w3.org", "")


def test_json_holds_no_nan(manifest, capsys):
    words = ["--real", str(manifest), "--split", "val", "--generators", "zero", "--no-classifier", "--json"]
    assert main(["evaluate", "phase", *words]) == 0
    json.loads(capsys.readouterr().out, parse_constant=lambda word: pytest.fail(word))


def test_rows_that_cannot_be_read_are_named_and_the_rest_is_evaluated(manifest, capsys):
    assert main(["evaluate", "phase", "--real", str(manifest), "--generators", "zero", "--no-classifier"]) == 1
    out = capsys.readouterr().out
    assert "gone.npy" in out and "| t (3 slices)" in out


def test_a_split_of_a_manifest_without_splits_is_refused(manifest, capsys):
    manifest.write_text("volume_id,path,phase\na1,m.npy,e1.npy\n")
    words = ["--real", str(manifest), "--split", "val", "--generators", "zero", "--no-classifier"]
    assert main(["evaluate", "phase", *words]) == 2
    assert "remove --split" in capsys.readouterr().err


def test_magnitude_that_is_not_finite_is_skipped(manifest, capsys):
    magnitude = np.load(manifest.parent / "m.npy")
    magnitude[0, 3, 3] = np.inf
    np.save(manifest.parent / "inf.npy", magnitude)
    manifest.write_text(manifest.read_text() + "i1,inf.npy,e1.npy,i,val,,q\n")
    words = ["--real", str(manifest), "--split", "val", "--generators", "zero", "--no-classifier"]
    assert main(["evaluate", "phase", *words]) == 1
    assert "inf.npy" in capsys.readouterr().out


def test_phase_that_is_not_finite_ends_an_evaluation(manifest):
    class Broken(Counting):
        name = "broken"

        def sample_phase(self, magnitude, keys, conditions):
            return super().sample_phase(magnitude, keys, conditions) * float("nan")

    with pytest.raises(RequestError, match="a1: broken "):
        evaluate(Request(manifest, "val", classifier=False), [Candidate("broken", Broken())], CONFIG)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--split", "test"], "gone.npy"),
        (["--generators", "nothing"], "nothing"),
        (["--generators", " , "], "--generators"),
        (["--checkpoint", "gone.safetensors"], "gone.safetensors"),
        (["--config", "gone.toml"], "gone.toml"),
        (["--max-slices", "-1"], "--max-slices"),
        (["--group-column", "nothere"], "nothere"),
    ],
)
def test_a_wrong_request_ends_with_2(manifest, words, expected, capsys):
    words = words if "--generators" in words or "--checkpoint" in words else [*words, "--generators", "zero"]
    assert main(["evaluate", "phase", "--real", str(manifest), "--no-classifier", *words]) == 2
    assert expected in capsys.readouterr().err


def test_an_interrupt_names_the_folder_and_ends_with_130(manifest, tmp_path, monkeypatch, capsys):
    def interrupted(choice):
        raise KeyboardInterrupt

    monkeypatch.setattr("rephase.evaluation.candidates.make_candidates", interrupted)
    words = ["evaluate", "phase", "--real", str(manifest), "-o", str(tmp_path / "out")]
    assert main(words) == 130
    assert str(tmp_path / "out") in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_a_wrong_request(manifest, capsys):
    assert main(["evaluate", "phase", "--real", str(manifest), "--device", "cuda"]) == 2
    assert "--device cuda" in capsys.readouterr().err


def test_a_folder_that_is_a_file_is_a_wrong_request(manifest, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="file"):
        evaluate(Request(manifest, "val", output=tmp_path / "file"), baselines("zero"), CONFIG)


@pytest.mark.parametrize(
    ("line", "expected"),
    [("seeds = 0", "seeds"), ("nonsense = 1", "nonsense"), ("[noninferiority.margins]\ngradient = 1", "missing")],
)
def test_a_configuration_is_checked(tmp_path, line, expected):
    text = DEFAULT.read_text()
    path = tmp_path / "c.toml"
    path.write_text(
        re.sub(r"\[noninferiority.margins\][^\[]*", line + "\n", text)
        if "margins" in line
        else f"{line}\n" + re.sub(r"(?m)^seeds.*$", "", text)
    )
    with pytest.raises(RequestError, match=expected):
        read_config(path, EvaluationConfig)


def test_the_package_configuration_holds_the_defaults_of_the_classes():
    assert CONFIG.classifier == type(CONFIG.classifier)()
    assert CONFIG.max_slices == 8 and set(CONFIG.noninferiority.margins) == set(METRIC_NAMES)


def test_models_are_labelled_by_their_evaluations_and_known_by_their_hash():
    found = make_candidates(
        CandidateOptions(("diffusion", "zero"), checkpoint=shipped_weights("teacher"), steps=(1, 2))
    )
    assert [one.label for one in found] == ["diffusion, nfe 1", "diffusion, nfe 2", "zero"]
    assert [one.role for one in found] == ["model", "model", "baseline"] and len(found[0].identity) == 64


def test_table_without_a_model(manifest):
    result = evaluate(Request(manifest, "val", classifier=False), baselines("zero", "smooth"), CONFIG)
    assert "No model took part" in markdown(result) and "Paired differences" in markdown(result)
