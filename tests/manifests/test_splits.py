from rephase.manifests.record import ManifestRow
from rephase.manifests.splits import rows_of_split

ROWS = [ManifestRow(line=line, volume_id=f"v{line}", path="v.npy", split=split) for line, split in
        enumerate(("train", "val", "test", None), 2)]  # fmt: skip


def test_the_test_split_is_taken_only_by_its_name():
    assert [row.split for row in rows_of_split(ROWS, "test")] == ["test"]
    for unstated in (None, ""):
        assert [row.split for row in rows_of_split(ROWS, unstated)] == ["train", "val", None]
    assert [row.split for row in rows_of_split(ROWS, "val")] == ["val"]
