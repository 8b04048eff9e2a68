from __future__ import annotations

import pytest

from augment.errors import Reason
from augment.options import BuildOptions
from augment.recipe import make_recipe, row_fingerprint
from augment.request import split_failed
from augment.runlog import Failure
from augment.workbench import Task
from manifests.record import ManifestRow


@pytest.mark.parametrize(("reason", "is_tried"), [("changed", True), ("unreadable", False)])
def test_a_changed_volume_is_looked_at_again_so_that_overwrite_mends_it(reason: Reason, is_tried: bool) -> None:
    recipe = make_recipe(BuildOptions(phase="zero"))
    task = Task(ManifestRow(2, "a", "a.npy"), 0)
    failure = Failure(reason, "a: was committed from other bytes", row_fingerprint(task.row), recipe.hash)
    left_out: list[Task] = []
    tried = list(split_failed(iter([task]), {"a": failure}, recipe, left_out))
    assert (tried, left_out) == (([task], []) if is_tried else ([], [task]))
