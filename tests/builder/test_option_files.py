"""`--config FILE`: what a build used runs again, the command line goes before it, mistakes are one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from rephase.builder.option_files import read_options, write_options
from rephase.builder.options import BuildOptions
from rephase.cli import make_parser
from rephase.commands.build import build_options


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
