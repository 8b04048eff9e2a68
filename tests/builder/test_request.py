from __future__ import annotations

import errno
from pathlib import Path

import pytest

from rephase.builder.options import BuildOptions
from rephase.builder.preflight import open_corpus, split_failed
from rephase.builder.resolve import make_recipe
from rephase.builder.runlog import Failure
from rephase.corpus.storage.local import LocalStorage
from rephase.errors import Reason, RequestError
from rephase.manifests.record import ManifestRow
from rephase.pipeline.recipe import row_fingerprint
from rephase.pipeline.task import Task


@pytest.mark.parametrize(("reason", "is_tried"), [("changed", True), ("unreadable", False)])
def test_a_changed_volume_is_checked_again_so_that_overwrite_fixes_it(reason: Reason, is_tried: bool) -> None:
    recipe = make_recipe(BuildOptions(phase="zero"))
    task = Task(ManifestRow(2, "a", "a.npy"), 0)
    failure = Failure(reason, "a: was committed from other bytes", row_fingerprint(task.row), recipe.hash)
    not_retried: list[Task] = []
    tried = list(split_failed(iter([task]), {"a": failure}, recipe, not_retried))
    assert (tried, not_retried) == (([task], []) if is_tried else ([], [task]))


def test_a_corpus_that_cannot_be_written_is_a_wrong_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(storage: LocalStorage, key: str, data: bytes) -> None:
        raise OSError(errno.EROFS, "Read-only file system", key)

    monkeypatch.setattr(LocalStorage, "put", full)
    with pytest.raises(RequestError, match=r"c.zarr: cannot be written \(Read-only file system\); expected"):
        open_corpus(str(tmp_path / "c.zarr"), make_recipe(BuildOptions(phase="zero")), overwrite=False)
