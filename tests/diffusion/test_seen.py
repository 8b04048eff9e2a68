import json
import math

import pytest
import torch
from tiny_network import TINY

from rephase.diffusion.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from rephase.diffusion.networks.unet import ComplexUNet
from rephase.diffusion.seen import Facts, Seen, region_of, seen_in

BRAIN = Facts("gradient-echo", "Brain, axial", 3.0, 5.0, 1.5, 4.0)
SEEN = seen_in([BRAIN, Facts("gradient-echo", "abdomen", 1.494, 20.0, 3.0, 5.0), Facts("spin-echo", None, 3.0, 0.0)])


def test_the_volumes_of_a_training_are_summarised():
    assert (
        Seen(("gradient-echo", "spin-echo"), ("abdomen", "brain"), (1.494, 3.0), (5.0, 20.0), (1.5, 3.0), (4.0, 5.0))
        == SEEN
    )


@pytest.mark.parametrize(
    ("facts", "outside"),
    [
        (BRAIN, {}),
        (Facts(), {}),
        (Facts("spin-echo", "HEAD", 2.89, 0.0, 2.0, 4.5), {}),
        (Facts("bssfp"), {"sequence": 1.0}),
        (Facts(anatomy="knee"), {"anatomy": 1.0}),
        (Facts(field_t=7.0, dephasing_ms=40.0), {"field_t": math.log2(7 / 3), "dephasing_ms": 1.0}),
        (Facts(spacing_mm=0.75, slice_mm=10.0), {"spacing_mm": 1.0, "slice_mm": 1.0}),
    ],
)
def test_a_score_adds_words_and_octaves(facts, outside):
    assert SEEN.outside(facts) == pytest.approx(outside)
    assert SEEN.score(facts) == pytest.approx(sum(outside.values()), abs=1e-3)


def test_weights_that_state_nothing_flag_nothing():
    assert Seen().outside(Facts("bssfp", "knee", 7.0, 90.0, 0.1, 20.0)) == {}


def test_a_head_is_a_brain_and_a_crop_is_its_part():
    assert [region_of(one) for one in ("Head", "brain-crop", "KNEE left", " ")] == ["brain", "brain", "knee", ""]


def test_a_model_card_states_what_was_seen(tmp_path):
    path = tmp_path / "w.safetensors"
    network = ComplexUNet(TINY)
    gauge = torch.zeros(1, 5)
    save_checkpoint(network, gauge, {"name": "w", "flow": {}}, path)
    assert load_checkpoint(path).seen is None
    digest = load_checkpoint(path).sha256
    save_checkpoint(network, gauge, {"name": "w", "flow": {}, "seen": SEEN.to_json()}, path)
    loaded = load_checkpoint(path)
    assert (loaded.seen, loaded.sha256) == (SEEN, digest)
    card = json.loads(path.with_suffix(".json").read_text())
    card["seen"]["fields_t"] = "3"
    path.with_suffix(".json").write_text(json.dumps(card))
    with pytest.raises(CheckpointError, match=r"seen\.fields_t"):
        load_checkpoint(path)
