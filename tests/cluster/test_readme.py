"""The keys of cluster configurations in cluster/README.md are those of the dataclasses."""

from __future__ import annotations

import json
import re
import tomllib

import pytest
from paths import PROJECT

from rephase.cluster.slurm.start import SlurmConfig
from rephase.cluster.ssh import SshConfig
from rephase.config import from_mapping, schema


def table(kind: type) -> str:
    """The keys of a configuration as a table of Markdown."""
    document = schema(kind)
    lines = ["| key | default | |", "|---|---|---|"]
    for name, field in document["properties"].items():
        default = "required" if name in document.get("required", ()) else f"`{json.dumps(field['default'])}`"
        lines.append(f"| `{name}` | {default} | {field['description']} |")
    return "\n".join(lines)


README = (PROJECT / "cluster" / "README.md").read_text("utf-8")


def test_the_example_is_a_configuration():
    (example,) = re.findall(r"^```toml\n(.*?)^```", README, re.M | re.S)
    from_mapping(tomllib.loads(example), SlurmConfig)


@pytest.mark.parametrize("kind", [SlurmConfig, SshConfig])
def test_every_key_is_documented(kind):
    assert table(kind) in README
