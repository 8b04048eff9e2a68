"""Configurations: what is read, what is refused and where, and the schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from rephase.cli import main
from rephase.config import ConfigError, Count, NonNegative, Positive, Share, Whole, from_mapping, read_config, schema
from rephase.errors import RephaseError, RequestError


@dataclass(frozen=True)
class Part:
    sizes: tuple[int, ...] = (1, 2)
    rate: Positive = 0.5
    kind: Literal["one", "two"] = "one"
    limits: Mapping[str, NonNegative] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.rate > sum(self.sizes):
            raise ValueError(f"rate = {self.rate:g}: expected at most the sum of sizes")


@dataclass(frozen=True)
class Settings:
    data: Path
    number: Count = 3
    offset: Whole = 0
    share: Share = 1.0
    """Part of the slices."""
    flag: bool = False
    label: str | None = None
    part: Part = field(default_factory=Part)
    free: dict[str, Any] = field(default_factory=dict)


def problems(values: Mapping[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        from_mapping(values, Settings)
    return caught.value.problems


def test_a_file_is_read_and_its_paths_are_relative_to_it(tmp_path):
    (tmp_path / "run.toml").write_text(
        'data = "rows.csv"\nshare = 1\n[part]\nsizes = [4, 5]\nlimits = { a = 2 }\n[free]\na = { b = [1, "x"] }\n'
    )
    config = read_config(tmp_path / "run.toml", Settings)
    assert config == Settings(
        (tmp_path / "rows.csv").resolve(), part=Part((4, 5), limits={"a": 2.0}), free={"a": {"b": [1, "x"]}}
    )
    assert type(config.share) is float and type(config.part) is Part
    assert from_mapping({"data": "/a"}, Settings) == Settings(Path("/a"))


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({}, "data"),
        ({"data": 3}, "data"),
        ({"number": 0}, "number"),
        ({"number": 1.5}, "number"),
        ({"number": 1.0}, "number"),
        ({"number": True}, "number"),
        ({"number": "3"}, "number"),
        ({"number": 2**31}, "number"),
        ({"offset": -1}, "offset"),
        ({"share": 1.1}, "share"),
        ({"share": float("nan")}, "share"),
        ({"flag": 1}, "flag"),
        ({"label": 1}, "label"),
        ({"part": 5}, "part"),
        ({"free": "x"}, "free"),
        ({"part": {"rate": 0}}, "part.rate"),
        ({"part": {"rate": float("inf")}}, "part.rate"),
        ({"part": {"rate": 9}}, "part"),
        ({"part": {"kind": "three"}}, "part.kind"),
        ({"part": {"sizes": "12"}}, "part.sizes"),
        ({"part": {"sizes": [1, "2"]}}, "part.sizes[1]"),
        ({"part": {"limits": {"a": -1}}}, "part.limits.a"),
        ({"part": {"colour": 1}}, "part.colour"),
        ({"extra": 1}, "extra"),
    ],
)
def test_a_value_that_does_not_fit_is_named_by_its_key(values, key):
    (one,) = problems(({} if key == "data" else {"data": "d"}) | values)
    assert one.startswith(f"{key}: ")


def test_what_was_found_and_expected():
    assert problems({"data": "d", "part": {"kind": "three"}}) == ["part.kind: found \"three\"; expected 'one' or 'two'"]
    assert problems({"data": "d", "part": 5}) == ["part: found 5; expected a section [part]"]


def test_an_unknown_key_is_named_with_the_nearest():
    assert problems({"data": "d", "part": {"size": [1]}}) == ["part.size: unknown key; did you mean sizes?"]
    assert problems({"data": "d", "zzz": 1})[0].endswith(
        "expected data, number, offset, share, flag, label, part, free"
    )
    assert from_mapping({"data": "d", "zzz": 1, "part": {"zzz": 1}}, Settings, allow_unknown=True) == Settings(
        Path("d")
    )


def test_all_problems_of_a_file_are_listed_a_line_each(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text("number = 0\nshar = 1\n[part]\nrate = -1\n")
    with pytest.raises(RequestError) as caught:
        read_config(path, Settings)
    lines = str(caught.value).splitlines()
    assert sorted(line.split(": ")[1] for line in lines) == ["data", "number", "part.rate", "shar"]
    assert all(line.startswith(f"{path}: ") for line in lines)


def test_values_that_json_cannot_hold_are_refused():
    deep: dict[str, Any] = {}
    for _ in range(100_000):
        deep = {"a": deep}
    for free in (deep, {"a": "\ud800"}):
        assert len(problems({"data": "d", "free": free})) == 1


class OtherError(RephaseError):
    pass


def test_a_file_that_cannot_be_read_or_is_not_toml(tmp_path):
    with pytest.raises(OtherError, match=r"none\.toml: .*No such file"):
        read_config(tmp_path / "none.toml", Settings, OtherError)
    for content in (b"a = 3 4", b"\xff"):
        (tmp_path / "bad.toml").write_bytes(content)
        with pytest.raises(OtherError, match=r"bad\.toml: not TOML"):
            read_config(tmp_path / "bad.toml", Settings, OtherError)


def test_schema():
    found = schema(Settings)
    assert found["required"] == ["data"] and found["additionalProperties"] is False
    assert found["properties"]["number"] | {"title": ""} == {
        "default": 3,
        "maximum": 2**31 - 1,
        "minimum": 1,
        "title": "",
        "type": "integer",
    }
    assert found["properties"]["share"]["description"] == "Part of the slices."
    assert found["$defs"]["Part"]["properties"]["kind"]["enum"] == ["one", "two"]


@dataclass(frozen=True, kw_only=True)
class More(Settings):
    further: int = 1


def test_schema_describes_inherited_keys():
    assert schema(More)["properties"]["share"]["description"] == "Part of the slices."


@pytest.mark.parametrize(
    ("command", "key"), [("train", "manifest"), ("distill", "teacher"), ("evaluate phase", "classifier")]
)
def test_a_command_prints_the_schema_of_its_configuration(command, key, capsys):
    assert main([*command.split(), "--schema"]) == 0
    assert key in json.loads(capsys.readouterr().out)["properties"]
