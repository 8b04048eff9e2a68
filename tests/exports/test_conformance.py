"""The real `fastmri` package on an export: its data set, transforms, a VarNet training step and its metrics.

The same volumes as files and as a corpus must be the same tuples.
"""

import math
import subprocess
import sys
from argparse import Namespace

import h5py
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from rephase.data.kspace_slices import KSpaceSlices
from rephase.exports.export import ExportOptions, export_corpus

mri_data = pytest.importorskip("fastmri.data", reason="the package fastmri is not installed", exc_type=ImportError)
subsample = pytest.importorskip("fastmri.data.subsample", exc_type=ImportError)
transforms = pytest.importorskip("fastmri.data.transforms", exc_type=ImportError)

SINGLE = ("single", "knee", "oversampled", "masked")


@pytest.fixture(scope="module")
def single(consumer_corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("single")
    export_corpus(consumer_corpus, folder, ExportOptions(volumes=SINGLE))
    return folder


@pytest.fixture(scope="module")
def coils(consumer_corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("coils")
    export_corpus(consumer_corpus, folder, ExportOptions(volumes=("coils",), compression="gzip"))
    return folder


def as_tuples(dataset):
    return {(item[4].removesuffix(".h5"), item[5]): item for item in (dataset[i] for i in range(len(dataset)))}


def equal(left, right):
    if isinstance(left, float) and math.isnan(left):
        return math.isnan(right)
    return bool(np.array_equal(left, right))


@pytest.mark.parametrize("challenge", ["singlecoil", "multicoil"])
def test_slice_dataset_and_ours_give_equal_tuples(consumer_corpus, single, coils, challenge):
    folder, names = (single, SINGLE) if challenge == "singlecoil" else (coils, ("coils",))
    theirs = as_tuples(mri_data.SliceDataset(folder, challenge))
    ours = as_tuples(KSpaceSlices(consumer_corpus, volumes=names, transform=lambda *parts: parts, suffix=".h5"))
    assert set(theirs) == set(ours)
    for key, (kspace, mask, target, attributes, name, number) in ours.items():
        other = theirs[key]
        np.testing.assert_array_equal(other[0], kspace)
        assert other[0].dtype == kspace.dtype
        assert (other[1] is None) == (mask is None)
        if mask is not None:
            np.testing.assert_array_equal(other[1], mask)
        np.testing.assert_array_equal(other[2], target)
        assert (other[4], other[5]) == (name, number)
        known = set(attributes) & set(other[3])
        assert known >= {
            "max", "norm", "padding_left", "padding_right", "encoding_size", "recon_size", "patient_id", "acquisition"
        }  # fmt: skip
        different = {field for field in known if not equal(attributes[field], other[3][field])}
        # fastMRI's readers know no CORPD without its coil: augment/EXPORTS.md
        assert different == ({"acquisition"} if name == "knee.h5" else set())


def make_transform(kind, challenge, accelerated=True):
    mask = subsample.RandomMaskFunc([0.2], [3]) if accelerated else None
    if kind == "unet":
        return transforms.UnetDataTransform(challenge, mask)
    return transforms.VarNetDataTransform(mask)


@pytest.mark.parametrize(
    ("kind", "challenge"), [("unet", "singlecoil"), ("unet", "multicoil"), ("varnet", "multicoil")]
)
def test_both_transforms_give_equal_samples_on_files_and_corpus(consumer_corpus, single, coils, kind, challenge):
    """The mask's seed is the file's name, so that the corpus is asked for names that end as the files' do."""
    folder, names = (single, ("single", "oversampled")) if challenge == "singlecoil" else (coils, ("coils",))
    transform = make_transform(kind, challenge)
    files = mri_data.SliceDataset(
        folder, challenge, transform, raw_sample_filter=lambda sample: sample.fname.stem in names
    )
    slices = KSpaceSlices(consumer_corpus, volumes=names, transform=transform, suffix=".h5")
    left = {(item.fname, item.slice_num): item for item in files}
    right = {(item.fname, item.slice_num): item for item in (slices[i] for i in range(len(slices)))}
    assert set(left) == set(right)
    for key, item in left.items():
        for field in item._fields:
            one, other = getattr(item, field), getattr(right[key], field)
            assert torch.equal(torch.as_tensor(one), torch.as_tensor(other)) if field != "fname" else one == other
        assert torch.isfinite(item[0]).all()


def test_our_dataset_takes_the_transforms_unmodified(consumer_corpus):
    for kind, names in (("unet", ("single",)), ("varnet", ("coils",))):
        challenge = "singlecoil" if kind == "unet" else "multicoil"
        dataset = KSpaceSlices(consumer_corpus, volumes=names, transform=make_transform(kind, challenge))
        batch = next(iter(DataLoader(dataset, batch_size=2)))
        assert list(batch.fname) == [names[0]] * 2
        assert batch.max_value.dtype == torch.float64


def test_one_training_step_of_varnet(coils):
    from fastmri.losses import SSIMLoss
    from fastmri.models import VarNet

    torch.manual_seed(0)
    network = VarNet(num_cascades=1, sens_chans=2, sens_pools=2, chans=2, pools=2)
    optimiser = torch.optim.Adam(network.parameters(), 1e-3)
    dataset = mri_data.SliceDataset(coils, "multicoil", make_transform("varnet", "multicoil"))
    batch = next(iter(DataLoader(dataset, batch_size=2)))
    losses = []
    for _ in range(3):
        output = network(batch.masked_kspace, batch.mask)
        target, output = transforms.center_crop_to_smallest(batch.target, output)
        loss = SSIMLoss()(output[:, None], target[:, None], data_range=batch.max_value.float())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] < 1


def test_fastmris_own_metrics(single, tmp_path):
    from fastmri.evaluate import evaluate

    targets, predictions = tmp_path / "targets", tmp_path / "predictions"
    targets.mkdir()
    predictions.mkdir()
    (targets / "single.h5").write_bytes((single / "single.h5").read_bytes())
    with h5py.File(targets / "single.h5") as file, h5py.File(predictions / "single.h5", "w") as other:
        other["reconstruction"] = file["reconstruction_esc"][...] * np.float32(1.01)
    arguments = Namespace(target_path=targets, predictions_path=predictions, acquisition="AXT1", acceleration=None)
    means = evaluate(arguments, "reconstruction_esc").means()
    assert means["NMSE"] == pytest.approx(1e-4, rel=1e-4)  # all of fastMRI's definition: |0.01 x|^2 / |x|^2
    assert 0.99 < means["SSIM"] < 1


def test_a_stranger_in_the_folder_is_what_stops_slice_dataset(single, tmp_path):
    """Why an export refuses a folder with other files, and leaves none of its own."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "single.h5").write_bytes((single / "single.h5").read_bytes())
    (folder / "notes.txt").write_text("notes")
    with pytest.raises(OSError, match="signature"):
        mri_data.SliceDataset(folder, "singlecoil")


def test_slice_dataset_collates_all_attributes(single):
    dataset = mri_data.SliceDataset(
        single,
        "singlecoil",
        raw_sample_filter=lambda sample: sample.fname.stem == "single",
        transform=lambda k, m, t, a, n, s: (k, t, a, n, s),
    )
    _, _, attributes, names, _ = next(iter(DataLoader(dataset, batch_size=3)))
    assert list(names) == ["single.h5"] * 3
    assert attributes["spacing_mm"].shape == (3, 3)


def test_workers_read_files_and_corpus_alike(consumer_corpus, single):
    """One process that spawns, as training does; the transform must be importable there."""
    code = (
        "import sys\nfrom fastmri.data import SliceDataset\nfrom rephase.data.kspace_slices import KSpaceSlices\n"
        "from torch.utils.data import DataLoader\n"
        "def run(data):\n"
        "    return sum(float(abs(item[0]).sum()) for item in DataLoader(data, batch_size=None, num_workers=1))\n"
        "ours = KSpaceSlices(sys.argv[1], volumes=['masked'])\n"
        "theirs = SliceDataset(sys.argv[2], 'singlecoil', raw_sample_filter=lambda s: s.fname.stem == 'masked')\n"
        "sys.exit(run(ours) != run(theirs))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(consumer_corpus), str(single)], check=False, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()
