"""`rephase coils estimate`: ESPIRiT finds the maps again, and a bank of them builds a corpus."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scans import build_scan, write_head

from rephase.cli import main
from rephase.data.kspace_slices import KSpaceSlices
from rephase.exports.export import ExportOptions, export_corpus
from rephase.scanner.bank import read_bank
from rephase.scanner.harmonics import evaluate

pytest.importorskip("sigpy", reason="the extra coils is not installed", exc_type=ImportError)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_bank_has_the_maps_that_made_the_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = write_head(tmp_path, (3, 96, 80), noise=4.0)
    root = build_scan(manifest, tmp_path / "c.zarr", coils="brain8")
    export_corpus(root, tmp_path / "h5")
    assert main(["coils", "estimate", str(tmp_path / "h5"), "-o", str(tmp_path / "b.npz")]) == 0
    assert "1 arrays of 8 coils" in capsys.readouterr().out
    bank = read_bank(tmp_path / "b.npz")
    _, _, target, attributes, _, _ = KSpaceSlices(root, maps=True)[1]
    inside = target > 0.2 * target.max()
    rows, columns = np.nonzero(inside)
    where = np.stack([np.zeros(len(rows)), *((one - (one.min() + one.max()) / 2) for one in (rows, columns))], axis=1)
    where *= np.array(attributes["spacing_mm"]) / bank.period_mm[0]
    found = evaluate(torch.from_numpy(bank.coefficients[0]), torch.from_numpy(where)).numpy()
    maps = attributes["sens_maps"][:, inside]
    likeness = np.abs((found.conj() * maps).sum(axis=0)) / np.linalg.norm(found, axis=0)
    assert likeness.min() > 0.98
    again = build_scan(manifest, tmp_path / "d.zarr", coils=f"bank:{tmp_path}/b.npz")
    assert KSpaceSlices(again)[0][0].shape == (8, 96, 80)


def test_single_coil_files_are_one_line_each(head: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export_corpus(build_scan(head, tmp_path / "c.zarr"), tmp_path / "h5", ExportOptions())
    assert main(["coils", "estimate", str(tmp_path / "h5"), "-o", str(tmp_path / "b.npz")]) == 2
    message = capsys.readouterr().err
    assert "head.h5: has one coil; expected multi-coil k-space" in message and "Traceback" not in message
    assert not (tmp_path / "b.npz").exists()
