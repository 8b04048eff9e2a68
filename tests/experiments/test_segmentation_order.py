"""The paper's order on phantom heads: zero phase < one angle per slice <= smooth phase, tested on another phase."""

import numpy as np
from head_corpora import make_head_corpora

from rephase.config import from_mapping
from rephase.experiments.arms import parse_arm
from rephase.experiments.segmentation.config import REAL_TEST, SegmentationConfig
from rephase.experiments.segmentation.training import Segmentation
from rephase.experiments.store import Job

SIZE, SEEDS, STEPS = 48, (0, 1), 60


def test_dice_rises_from_zero_phase_over_angles_to_smooth_phase(tmp_path):
    corpora = make_head_corpora(tmp_path, ["zero", "smooth"], train=5, test=4, size=SIZE)
    config = from_mapping(
        {
            "arms": [], "comparisons": [], "data": {"matrix": [SIZE, SIZE]},
            "training": {"batch": 4, "learning_rate": 4e-3, "warmup": 5}, "network": {"channels": 8, "levels": 3},
        },
        SegmentationConfig,
    )  # fmt: skip
    experiment = Segmentation(config, corpora, "cpu", labelled=True)
    means = {}
    for label in ("zero", "angle", "smooth", "real"):
        found = []
        for seed in SEEDS:
            result = experiment.run(Job(parse_arm(label), "image", seed, STEPS), tmp_path / "weights", None)
            found += [one.metrics["dice"] for one in result.scores if one.condition == REAL_TEST]
        means[label] = float(np.mean(found))
    # far apart, so that another machine's rounding does not decide; angle and smooth may tie
    assert means["zero"] < means["angle"] - 0.1, means
    assert means["angle"] <= means["smooth"] + 0.02, means
    assert means["real"] > means["angle"], means
