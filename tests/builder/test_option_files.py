"""`--config FILE`: what a build used runs again, the command line goes before it, mistakes are one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from rephase.builder.option_files import read_options, write_options
from rephase.builder.options import BuildOptions
from rephase.cli import make_parser
from rephase.commands.build import _several_options, build_options
from rephase.errors import RequestError


def options_of(*words: str) -> BuildOptions:
    arguments = make_parser().parse_args(["build", "m.csv", "c.zarr", *words])
    arguments.argv = ["build", "m.csv", "c.zarr", *words]
    return build_options(arguments)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--phase", "smooth", "--seed", "3", "--replicas", "2"],
        ["--coils", "8", "--noise", "25", "--keep-columns", "site,age", "--memory-limit", "8GB"],
        ["--cluster", "slurm:a b.toml", "--time-limit", "90.5", "--log-paths"],
    ],
)
def test_what_was_used_runs_again(tmp_path: Path, words: list[str]) -> None:
    options = options_of(*words)
    path = tmp_path / "build.toml"
    path.write_text(write_options(options))
    assert options_of("--config", str(path)) == options


def test_the_command_line_goes_before_the_file_even_with_a_default(tmp_path: Path) -> None:
    path = tmp_path / "b.toml"
    path.write_text('phase = "smooth"\nseed = 7\nlog-paths = true\n')
    for words in (["--config", str(path), "--seed", "0"], ["--seed=0", "--config", str(path)]):
        found = options_of(*words)
        assert (found.phase, found.seed, found.log_paths) == ("smooth", 0, True)


@pytest.mark.parametrize(
    ("text", "message"),
    [("sed = 1", "unknown option 'sed'"), ("seed = ", "expected a TOML file"), (None, "No such file")],
)
def test_a_mistake_is_one_line(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "b.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_options(str(path))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_options_of_one_run_are_not_repeated() -> None:
    assert "break" not in write_options(BuildOptions(break_lease=True, seed=2))


def test_numbers_of_toml_are_those_of_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "b.toml"
    path.write_text('phase = "smooth"\ncoils = 8\nnoise = 25.0\nsplit = ["train"]\nmemory-limit = 8e9\n')
    words = ["--phase", "smooth", "--coils", "8", "--noise", "25", "--split", "train", "--memory-limit", "8GB"]
    assert options_of("--config", str(path)) == options_of(*words)


@pytest.mark.parametrize(
    "text",
    [
        "where = 3", "seed = 1.5", "seed = true", "replicas = true", 'overwrite = "yes"', "log-paths = 1", "mask = 4",
        'acquisition = ["oversampling=2"]', "keep-columns = [1]", "seed = { a = 1 }", "phase = 3", "phase = [1]",
        'phase = "zero,zero"', "noise = nan", "coils = 1979-05-27",
    ],
)  # fmt: skip
def test_a_value_of_another_type_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "b.toml"
    path.write_text(text)
    with pytest.raises(RequestError) as caught:
        options_of("--config", str(path))
    assert text.split()[0] in str(caught.value) and "\n" not in str(caught.value)


def test_the_file_has_the_options_of_several_phases(tmp_path: Path) -> None:
    path = tmp_path / "b.toml"
    path.write_text('phase = "zero,smooth"\nreplicas = 3\nseed = 5\n')
    for words, replicas in (((), 3), (("--replicas", "2"), 2), (("--phase", "zero,smooth"), 3)):
        line = ["build", "m.csv", "c.zarr", "--config", str(path), *words]
        arguments = make_parser().parse_args(line)
        arguments.argv = line
        zero, smooth = _several_options(arguments).values()
        assert (zero.phase, zero.replicas, zero.seed) == ("zero", 1, 5)
        assert (smooth.phase, smooth.replicas, smooth.seed) == ("smooth", replicas, 5)
