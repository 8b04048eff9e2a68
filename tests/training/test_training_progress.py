"""How far a training is, where stderr is a file."""

import pytest

import rephase.training.watch
from rephase.training.watch import training_progress


def test_a_log_gets_lines_with_steps_remaining_time_and_loss(capsys, monkeypatch):
    clock = iter(range(0, 10_000, 40))  # a step takes 40 s
    monkeypatch.setattr(rephase.training.watch.time, "monotonic", lambda: float(next(clock)))
    with training_progress(2, 8) as progress:
        for step in range(2, 8):
            progress(step, 0.5)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[1].split("[")[0].strip() for line in lines] == [f"{n} of 8 steps" for n in (4, 6, 8)]
    assert "<02:40" in lines[0] and "loss 0.500" in lines[0]  # 4 steps of 40 s are left
    assert "\r" not in "".join(lines)


@pytest.mark.parametrize("shown", [True, False])
def test_a_short_training_says_that_it_is_done_in_one_process(capsys, shown):
    with training_progress(0, 1, shown=shown) as progress:
        progress(0, 0.25)
    assert capsys.readouterr().err.count("1 of 1 steps") == shown
