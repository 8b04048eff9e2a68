import dataclasses

import numpy as np
import pytest
import torch

from augment.measured_field import SHARES, MeasuredField, field_slices, measure_fields
from augment.volume import Volume
from manifests.record import ManifestRow

SHAPE = (4, 40, 36)
HERTZ = 600.0 * np.linspace(-1, 1, SHAPE[2]) ** 2


def volume(phase: np.ndarray | None, te_ms: float | None, field_t: float | None = 3.0) -> Volume:
    magnitude = np.full(SHAPE, 100.0, np.float32) + np.linspace(0, 40, SHAPE[2], dtype=np.float32)
    return Volume(
        magnitude=magnitude,
        spacing_mm=(5.0, 2.0, 2.0),
        affine=(1.0,) * 16,
        orientation="SPL",
        transposed=False,
        phase_encode="assumed",
        source_sha256="",
        phase=phase,
        te_ms=te_ms,
        field_t=field_t,
    )


def row(name: str, **columns: object) -> ManifestRow:
    return dataclasses.replace(ManifestRow(1, name, f"{name}.npy", subject_id="s"), **columns)


@pytest.fixture
def field() -> MeasuredField:
    """Measured between echoes whose phase is of coils, and of a field that goes as x squared, in hertz."""
    coils = 3.0 * np.sin(np.linspace(0, 9, SHAPE[1]))[None, :, None]
    volumes = []
    for te_ms in (4.0, 6.5):
        phase = np.broadcast_to(coils + 2 * np.pi * HERTZ * te_ms * 1e-3, SHAPE)
        volumes.append(volume(np.angle(np.exp(1j * phase)).astype(np.float32), te_ms))
    (found,) = measure_fields([(row("a_e1"), volumes[0]), (row("a_e2"), volumes[1])])
    return found


def test_what_coils_add_is_gone_and_what_the_field_adds_is_kept_without_wraps(field):
    assert field.between_ms == 2.5 and field.field_t == 3.0 and field.spacing_mm == (5.0, 2.0, 2.0)
    expected = torch.from_numpy(2 * np.pi * HERTZ * 2.5e-3).float()
    assert float(expected.max() - expected.min()) > 2 * np.pi
    error = (field.phase - expected)[:, 1:-1, 2:-2]
    assert float((error - error.mean()).abs().max()) < 0.1


def test_the_phase_goes_with_the_echo_time_that_is_drawn(field, monkeypatch):
    monkeypatch.setattr("augment.simulated_phase.receive", lambda shape, *_, **__: torch.ones(shape))
    times = []
    for seed in range(6):
        made = field_slices(dataclasses.replace(field, field_t=float("nan")), np.random.default_rng(seed))
        assert len(made) == 4 and made[0].spacing_mm == (2.0, 2.0)
        images = torch.stack([part.image for part in made])
        expected = torch.polar(torch.ones(SHAPE), field.phase * made[0].te_ms / field.between_ms)
        assert float((images * expected.conj()).angle().abs().median()) < 0.02
        assert float((images.abs() - field.magnitude).abs().median()) < 1.0
        times.append(made[0].te_ms / field.between_ms)
    assert len(set(times)) == 6 and SHARES[0] <= min(times) < 0.7 < 1.0 < max(times) <= SHARES[1]


def test_fat_turns_by_its_whole_turns_too(field, monkeypatch):
    """Between echoes at 3 T that are 2.3 ms apart fat turns once, which is not seen; at half the time it is opposed."""
    monkeypatch.setattr("augment.simulated_phase.receive", lambda shape, *_, **__: torch.ones(shape))
    monkeypatch.setattr("augment.measured_field.SHARES", (0.5, 0.5))
    half = torch.zeros(SHAPE)
    half[:, :, 18:] = 1.0
    monkeypatch.setattr("augment.measured_field.guess_tissues", lambda *_: (1.0 - half, half))
    made = field_slices(dataclasses.replace(field, between_ms=2.3), np.random.default_rng(0))
    turned = torch.stack([part.image for part in made]) * torch.polar(torch.ones(SHAPE), -0.5 * field.phase)
    assert float(turned[:, :, :18].angle().abs().median()) < 0.02
    assert float(turned[:, :, 18:].angle().abs().median()) > 3.1


def test_what_is_drawn_is_a_function_of_the_random_numbers(field):
    one, two = (field_slices(field, np.random.default_rng(3)) for _ in range(2))
    other = field_slices(field, np.random.default_rng(4))
    assert all(torch.equal(a.image, b.image) for a, b in zip(one, two, strict=True))
    assert not torch.equal(one[0].image, other[0].image)


@pytest.mark.parametrize(
    ("field_t", "factor", "other"), [(3.0, 2.0, 1.5), (2.89, 2.89 / 1.5, 1.5), (1.5, 1.0, 1.5), (7.0, 1.0, 7.0)]
)
def test_the_echo_time_is_that_of_the_same_phase_at_the_lower_field(field, monkeypatch, field_t, factor, other):
    monkeypatch.setattr("augment.measured_field.SHARES", (1.0, 1.0))
    made = field_slices(dataclasses.replace(field, field_t=field_t), np.random.default_rng(0))
    assert all((part.te_ms, part.field_t) == (pytest.approx(2.5 * factor), other) for part in made)


def test_the_first_two_echoes_of_a_scan_are_taken():
    zeros = np.zeros(SHAPE, np.float32)
    early, late, latest = (volume(zeros, te_ms) for te_ms in (2.0, 4.0, 7.0))
    found = measure_fields([(row("a_e3"), latest), (row("a_e02"), late), (row("a_e01"), early), (row("b_e1"), early)])
    assert [one.between_ms for one in found] == [2.0]
    series = [(row(name, series="1.2", echo=echo), one) for name, echo, one in (("x", 1, early), ("y", 2, late))]
    assert len(measure_fields(series)) == 1


@pytest.mark.parametrize(
    "second",
    [
        (row("a_e2", subject_id="other"), volume(np.zeros(SHAPE, np.float32), 4.0)),
        (row("b_e2"), volume(np.zeros(SHAPE, np.float32), 4.0)),
        (row("a2"), volume(np.zeros(SHAPE, np.float32), 4.0)),
        (row("a_e2"), volume(np.zeros(SHAPE, np.float32), 2.0)),
        (row("a_e2"), volume(np.zeros(SHAPE, np.float32), None)),
        (row("a_e2"), volume(None, 4.0)),
        (row("a_e2"), dataclasses.replace(volume(np.zeros(SHAPE, np.float32), 4.0), spacing_mm=(5.0, 2.0, 3.0))),
    ],
    ids=["subject", "scan", "name", "same time", "no time", "no phase", "grid"],
)
def test_volumes_that_are_not_echoes_of_one_scan_measure_nothing(second):
    assert measure_fields([(row("a_e1"), volume(np.zeros(SHAPE, np.float32), 2.0)), second]) == []
