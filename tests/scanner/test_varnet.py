"""VarNet of the package fastmri, unchanged, on multi-coil data of a corpus and of its export."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rephase.data.kspace_slices import KSpaceSlices
from rephase.exports.export import export_corpus

mri_data = pytest.importorskip("fastmri.data", reason="the package fastmri is not installed", exc_type=ImportError)
subsample = pytest.importorskip("fastmri.data.subsample", exc_type=ImportError)
transforms = pytest.importorskip("fastmri.data.transforms", exc_type=ImportError)


def test_varnet_estimates_its_own_maps_and_learns(lazy: Path, tmp_path: Path) -> None:
    from fastmri.losses import SSIMLoss
    from fastmri.models import VarNet

    export_corpus(lazy, tmp_path / "h5")
    transform = transforms.VarNetDataTransform(mask_func=subsample.EquiSpacedMaskFunc([0.2], [4]))
    files = mri_data.SliceDataset(tmp_path / "h5", "multicoil", transform)
    corpus = KSpaceSlices(lazy, transform=transform, suffix=".h5")
    assert len(files) == len(corpus) == 4
    for one, other in zip(files, corpus, strict=True):
        assert torch.equal(one.masked_kspace, other.masked_kspace) and torch.equal(one.target, other.target)
    torch.manual_seed(0)
    network = VarNet(num_cascades=1, sens_chans=2, sens_pools=2, chans=2, pools=2)
    optimiser = torch.optim.Adam(network.parameters(), 1e-3)
    batch, losses = corpus[1], []
    for _ in range(3):
        output = network(batch.masked_kspace[None], batch.mask[None])
        target, output = transforms.center_crop_to_smallest(batch.target[None], output)
        loss = SSIMLoss()(output[:, None], target[:, None], data_range=torch.tensor([batch.max_value]).float())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] < 1
