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
from rephase.evaluation.comparison import compare, mean_curves, mean_scores
from rephase.evaluation.config import DEFAULT, EvaluationConfig, IntervalConfig
from rephase.evaluation.curves import CURVES, EDGES, gradient_shares
from rephase.evaluation.intervals import estimate_mean
from rephase.evaluation.metrics import METRIC_NAMES
from rephase.evaluation.run import Request, evaluate
from rephase.evaluation.sampling import Sampler, decode, encode
from rephase.evaluation.scores import FLOOR, REAL, Score
from rephase.evaluation.sessions import choose_slices, read_real
from rephase.evaluation.tables import markdown
from rephase.manifests.parse import read_manifest

CONFIG = read_config(DEFAULT, EvaluationConfig)
GE, SE = "gradient-echo", "spin-echo"


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
        "volume_id,path,phase,subject_id,split,sequence,te_ms,person\na1,m.npy,e1.npy,a,val,gradient-echo,4,p\n"
        "a2,m.npy,e2.npy,a,val,gradient-echo,6,p\nb1,m.npy,none.npy,b,val,spin-echo,90,p\n"
        "t1,m.npy,e1.npy,t,train,,,q\ng1,gone.npy,e1.npy,g,train,,,q\nx1,gone.npy,e1.npy,x,test,,,q\n"
    )
    return path


def baselines(*names):
    return [Candidate(name, make_generator(name)) for name in names]


def scores(manifest, *names):
    result = evaluate(Request(manifest, "val", classifier=False), baselines(*names), CONFIG)
    return {(one.session, one.family, one.generator): one for one in result.scores}


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
    assert table["a", GE, "white"].distances["gradient"] > 3 * table["a", GE, "zero"].distances["gradient"]
    assert table["a", GE, "white"].distances["residues"] > 200 > table["a", GE, "zero"].distances["residues"]


def test_a_generator_that_gives_the_real_phase_has_no_distance(manifest):
    one = scores(manifest, "zero")["b", SE, "zero"]
    assert all(value < 1e-6 for value in one.distances.values()), one.distances


def test_only_sessions_of_several_volumes_have_a_floor(manifest):
    table = scores(manifest, "zero")
    assert 0 < table["a", GE, FLOOR].distances["gradient"] < table["a", GE, "zero"].distances["gradient"]
    assert table["a", GE, FLOOR].diversity > 0
    assert ("b", SE, FLOOR) not in table


def test_diversity_is_none_for_zero_phase_and_large_for_white_phase(manifest):
    table = scores(manifest, "zero", "white")
    assert table["a", GE, "zero"].diversity == pytest.approx(0, abs=1e-6) and table["a", GE, "white"].diversity > 0.3


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


def made(session, generator, value, family="gradient-echo", group=None, **others):
    found = dict.fromkeys(METRIC_NAMES, value) | others
    curves = {curve.name: [value] * len(curve.x) for curve in CURVES}
    return Score(session, family, group or session, generator, found, found, 0.0, 1, 1, curves)


def test_intervals_are_over_groups_and_need_enough_of_them():
    few = IntervalConfig(groups=4)
    same_person = [("p", 1.0), ("p", 3.0), ("q", 5.0), ("r", 3.0), ("r", float("nan"))]
    found = estimate_mean(same_person, few)
    assert (found.mean, found.low, found.sessions, found.groups) == (3.0, None, 4, 3)
    found = estimate_mean([*same_person, ("s", 3.0)], few)
    assert 1.9 < found.low < 3.0 < found.high <= 5.0
    # as many sessions of one person say no more than one
    assert estimate_mean([("p", 1.0)] * 50, few).low is None
    assert np.isnan(estimate_mean([("p", float("nan"))], few).mean)


def test_the_interval_covers_the_mean_of_the_population():
    random = np.random.default_rng(0)
    inside = 0
    for _ in range(200):
        found = estimate_mean(
            [(str(i), value) for i, value in enumerate(random.normal(2.0, 1.0, 20))], IntervalConfig(draws=400)
        )
        inside += found.low <= 2.0 <= found.high
    assert 0.86 < inside / 200 < 0.99


def test_families_are_means_over_their_own_sessions():
    table = [made("a", "zero", 1.0), made("b", "zero", 2.0), made("b", "zero", 9.0, "spin-echo"), made("a", REAL, 0.0)]
    found = {(one.family, one.generator): one for one in mean_scores(table, CONFIG.interval)}
    assert found["gradient-echo", "zero"].distances["gradient"].mean == 1.5
    assert found["spin-echo", "zero"].distances["gradient"].mean == 9.0 and found["spin-echo", "zero"].sessions == 1
    assert next(iter(found)) == ("gradient-echo", REAL)
    curves = {(one.family, one.curve, one.generator): one.points for one in mean_curves(table, CONFIG.interval)}
    assert [point.mean for point in curves["gradient-echo", "spectrum", "zero"]] == [1.5] * 32


def test_differences_are_paired_by_session_and_family():
    table = [made(f"s{i}", name, value + i) for i in range(3) for name, value in (("model", 1.0), ("smooth", 3.0))]
    table += [made("s0", "model", 9.0, "spin-echo"), made("s0", "smooth", 3.0, "spin-echo")]
    table += [made("alone", "model", 1.0)]
    found = {(one.family, one.metric): one for one in compare(table, CONFIG.interval, "model", "smooth")}
    line = found["gradient-echo", "gradient"]
    assert set(line.by_session.values()) == {-2.0} and line.mean.mean == -2.0 and line.nearer == 3
    assert line.mean.low is None
    assert found["spin-echo", "gradient"].by_session == {"s0": 6.0} and found["spin-echo", "gradient"].nearer == 0
    more = [*table, made("s3", "model", 5.0), made("s3", "smooth", 3.0)]
    line = compare(more, CONFIG.interval, "model", "smooth")[0]
    assert line.mean.mean == -1.0 and -2.0 <= line.mean.low < -1.0 < line.mean.high <= 2.0


def test_gradient_shares_count_the_modulus():
    middle = float(np.sqrt(EDGES[3] * EDGES[4]))
    shares = gradient_shares(np.array([[middle, -middle], [0.0, 100.0]]))
    assert shares[3] == 0.5 and shares[0] == 0.25 and shares[-1] == 0.25
    assert np.isnan(gradient_shares(np.array([np.nan]))).all()


def test_sessions_of_two_families_are_judged_as_two(manifest):
    text = manifest.read_text().replace("b1,m.npy,none.npy,b,", "b1,m.npy,none.npy,a,")
    manifest.write_text(text)
    table = scores(manifest, "zero")
    assert table["a", "gradient-echo", "zero"].volumes == 2 and table["a", "spin-echo", "zero"].volumes == 1


def test_the_test_split_is_evaluated_only_on_request(manifest, capsys):
    result = evaluate(Request(manifest, classifier=False), baselines("zero"), CONFIG)
    assert {one.session for one in result.scores} == {"a", "b", "t"} and "split all but test" in markdown(result)
    manifest.write_text(manifest.read_text().replace("x1,gone.npy", "x1,m.npy"))
    result = evaluate(Request(manifest, "test", classifier=False), baselines("zero"), CONFIG)
    assert {one.session for one in result.scores} == {"x"} and "split test (held back" in markdown(result)
    manifest.write_text("volume_id,path,phase,split\na1,m.npy,e1.npy,test\n")
    assert main(["evaluate", "phase", "--real", str(manifest), "--generators", "zero", "--no-classifier"]) == 2
    assert "add --split test" in capsys.readouterr().err


def test_withheld_facts_are_hidden_from_the_generators_but_not_from_the_tables(manifest):
    row = list(read_manifest(manifest))[2]
    told, untold = read_real(row, 0), read_real(row, 0, None, ("sequence", "te_ms"))
    assert (told.family, told.conditions.sequence, told.conditions.dephasing_ms) == ("spin-echo", "spin-echo", 0.0)
    assert (
        untold.family == "spin-echo" and untold.conditions.sequence is None and untold.conditions.dephasing_ms is None
    )
    text = markdown(
        evaluate(Request(manifest, "val", withheld=("te_ms",), classifier=False), baselines("zero"), CONFIG)
    )
    assert "withheld from the generators: te_ms" in text


def test_baselines_nearer_than_the_model_are_listed(manifest):
    def listed(model, baseline):
        pair = [Candidate("m", make_generator(model), role="model"), *baselines(baseline)]
        text = markdown(evaluate(Request(manifest, "val", classifier=False), pair, CONFIG))
        return text.split("## Baselines nearer than the model")[1].split("##")[0]

    assert "| spin-echo | structure | m | zero |" in listed("white", "zero") and "| b |" in listed("white", "zero")
    assert "| gradient | m | white |" not in listed("zero", "white")


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
    assert text == (out / "evaluation.md").read_text() and "| b (3 slices) | spin-echo | zero |" in text
    data = json.loads((out / "evaluation.json").read_text())
    assert data["machine"]["torch"] and len(data["settings"]["manifest_sha256"]) == 64
    assert {one["generator"] for one in data["scores"]} == {"real", FLOOR, "smooth", "zero"}
    page = (out / "evaluation.html").read_text()
    assert len(re.findall(r"<figure>", page)) == 2 * (2 + 2)  # sessions x (magnitude, real, generators)
    assert page.count('class="chart"') == 2 * len(CURVES) and "nan" not in page
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
    manifest.write_text(manifest.read_text() + "i1,inf.npy,e1.npy,i,val,,,q\n")
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
        (["--withhold", "weather"], "weather"),
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
    [("seeds = 0", "seeds"), ("nonsense = 1", "nonsense"), ("interval = { groups = 0 }", "groups")],
)
def test_a_configuration_is_checked(tmp_path, line, expected):
    path = tmp_path / "c.toml"
    path.write_text(f"{line}\n")
    with pytest.raises(RequestError, match=expected):
        read_config(path, EvaluationConfig)


def test_the_package_configuration_holds_the_defaults_of_the_classes():
    assert EvaluationConfig() == CONFIG


def test_models_are_labelled_by_their_evaluations_and_known_by_their_hash():
    found = make_candidates(
        CandidateOptions(("diffusion", "zero"), checkpoint=shipped_weights("teacher"), steps=(1, 2))
    )
    assert [one.label for one in found] == ["diffusion, nfe 1", "diffusion, nfe 2", "zero"]
    assert [one.role for one in found] == ["model", "model", "baseline"] and len(found[0].identity) == 64


def test_table_without_a_model(manifest):
    result = evaluate(Request(manifest, "val", classifier=False), baselines("zero", "smooth"), CONFIG)
    assert "No model was compared" in markdown(result) and "Paired differences" in markdown(result)
