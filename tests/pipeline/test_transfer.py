from __future__ import annotations

import math
import threading
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_network import TINY
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rephase.bench.phantom import make_magnitude, open_smooth_worker, write_volumes
from rephase.diffusion.checkpoint import Checkpoint
from rephase.diffusion.devices import from_scalars
from rephase.diffusion.generators import Conditions, SliceKey
from rephase.diffusion.learned import GPU_TILE
from rephase.diffusion.networks.unet import ComplexUNet
from rephase.diffusion.processes.ddpm import DdpmGenerator
from rephase.diffusion.processes.flow import FlowGenerator
from rephase.diffusion.processes.regression import RegressionGenerator
from rephase.diffusion.registry import make_generator
from rephase.manifests.parse import read_manifest
from rephase.pipeline.build_volume import build_volume
from rephase.pipeline.gpu import CudaSubmitter, InFlight, InlineSubmitter, make_submitter
from rephase.pipeline.recipe import Tile
from rephase.pipeline.sampling import batches
from rephase.pipeline.task import Task

KNOWN = Conditions((0.9, 1.6), 12.0, 3.0, 5.0)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is here")


def tiny_checkpoint(process: str = "flow", **card) -> Checkpoint:
    torch.manual_seed(0)
    gauge = torch.tensor([[math.nan, 1.2, 0.01, 0.02, 0.1], [12.0, 1.2, 0.03, 0.01, -0.2]])
    network = ComplexUNet(TINY).requires_grad_(False)
    return Checkpoint(network, process, gauge, "0", card)


def keys(count: int) -> list[SliceKey]:
    return [SliceKey(0, "a", 0, index) for index in range(count)]


def send_all(submitter, magnitude, batch_size: int | None, tile: int):
    """Phasors and device seconds of a volume that goes through a submitter."""
    phasor, seconds = np.zeros(magnitude.shape, np.complex64), []

    def take(part, sampled, device_s):
        phasor[part] = sampled
        seconds.append(device_s)

    in_flight = InFlight(submitter, take)
    for part in batches(len(magnitude), batch_size, tile):
        in_flight.send(part, magnitude, keys(len(magnitude)), KNOWN)
    in_flight.drain()
    return phasor, seconds


class Noted:
    """A submitter that records its calls; phasors are the numbers of the slices."""

    def __init__(self, ahead: int):
        self.ahead, self.notes = ahead, []

    def send(self, magnitude, keys, conditions):
        first = keys[0].slice_index
        self.notes.append(("send", first))
        assert [key.slice_index for key in keys] == [first + i for i in range(len(magnitude))]

        def wait():
            self.notes.append(("drain", first))
            numbers = np.arange(first, first + len(magnitude), dtype=np.complex64)
            return np.broadcast_to(numbers[:, None, None], magnitude.shape), float(first)

        return wait


@pytest.mark.parametrize(
    ("ahead", "order"),
    [
        (0, ["send 0", "drain 0", "send 4", "drain 4", "send 8", "drain 8"]),
        (1, ["send 0", "send 4", "drain 0", "send 8", "drain 4", "drain 8"]),
        (2, ["send 0", "send 4", "send 8", "drain 0", "drain 4", "drain 8"]),
    ],
)
def test_so_many_batches_are_under_way_as_the_lane_may_have_and_land_in_order(ahead, order):
    submitter = Noted(ahead)
    phasor, seconds = send_all(submitter, np.ones((10, 2, 3), np.float32), 4, 4)
    assert [f"{what} {first}" for what, first in submitter.notes] == order
    assert np.array_equal(phasor[:, 0, 0].real, np.arange(10))
    assert seconds == [0.0, 4.0, 8.0]


def test_on_cpu_a_submitter_returns_what_the_generator_returns():
    generator = FlowGenerator(tiny_checkpoint(), 2)
    magnitude = make_magnitude(5, 20)
    magnitude.flags.writeable = False
    expected = generator.sample_phase(torch.from_numpy(magnitude.copy()), keys(5), KNOWN).numpy()
    submitter = make_submitter(generator)
    assert isinstance(submitter, InlineSubmitter)
    for size in (None, 1, 2, 5):
        phasor, seconds = send_all(submitter, magnitude, size, generator.tile)
        assert phasor.tobytes() == expected.tobytes()
        assert not any(seconds)


def test_a_baseline_needs_no_device():
    assert isinstance(make_submitter(make_generator("smooth")), InlineSubmitter)


def test_the_next_volume_is_sent_while_the_last_batch_of_one_is_under_way(tmp_path, monkeypatch):
    rows = read_manifest(write_volumes(tmp_path, 2, 20, 8))
    worker = open_smooth_worker(tmp_path / "c.zarr")
    second_sent = threading.Event()
    held = []

    class Slow(InlineSubmitter):
        ahead = 1

        def send(self, magnitude, keys, conditions):
            held.append(worker.sampling.locked())
            pending = super().send(magnitude, keys, conditions)
            first = len(held) <= 2
            if not first:
                second_sent.set()

            def wait():
                if first and len(keys) < 16:  # the last batch of the volume that came first
                    assert second_sent.wait(60)
                return pending()

            return wait

    monkeypatch.setattr("rephase.pipeline.sampling.make_submitter", Slow)
    outcomes = []
    threads = [threading.Thread(target=lambda r=row: outcomes.append(build_volume(Task(r), worker))) for row in rows]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [outcome.status for outcome in outcomes] == ["built", "built"]
    assert held == [True] * 4
    assert not worker.sampling.locked()


def test_nothing_of_a_call_that_did_not_fit_is_left_when_less_is_tried(tmp_path):
    row = read_manifest(write_volumes(tmp_path, 1, 20, 8))[0]
    left: list[weakref.ref] = []
    seen: list[tuple[int, bool]] = []

    class Full:
        name, nfe, tile, device, families = "diffusion", 1, 16, "cpu", None

        def sample_phase(self, magnitude, keys, conditions):
            seen.append((self.tile, any(one() is not None for one in left)))
            activations = np.ones(8)  # lives as long as this frame, which a traceback would keep
            left.append(weakref.ref(activations))
            if self.tile > 4:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return torch.ones_like(magnitude, dtype=torch.complex64)

    outcome = build_volume(Task(row), replace(open_smooth_worker(tmp_path / "c.zarr"), generator=Full()))
    assert outcome.reason == "too_large" and "tiles of 4 would fit" in outcome.message
    assert seen == [(16, False), (8, False), (4, False)]


def test_scalars_are_those_of_a_tensor_made_at_once():
    values = [1.5, math.nan, 0.1, -7.0]
    made = from_scalars(values, torch.device("cpu"))
    assert made.dtype == torch.float32
    assert torch.equal(made.isnan(), torch.tensor([False, True, False, False]))
    assert torch.equal(made.nan_to_num(), torch.tensor(values).nan_to_num())


class Waits(TorchFunctionMode):
    """Notes calls that make a program wait for a device: values that are read, tensors made of the host's values."""

    READ = ("tolist", "item", "__bool__", "__float__", "__int__", "__index__", "cpu", "numpy", "nonzero")
    MADE = ("tensor", "as_tensor", "new_tensor", "to", "cuda")

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        result = func(*args, **kwargs)
        devices = {one.device.type for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)}
        if name in self.READ and "meta" in devices:
            self.found.append(name)
        if name in self.MADE and "meta" not in devices - {"cpu"} and result.device.type == "meta":
            self.found.append(name)
        if name == "new_tensor" and "meta" in devices:
            self.found.append(name)
        return result


class Crossings(TorchDispatchMode):
    """Notes operations whose tensors lie on two devices, and counts all of them."""

    def __init__(self):
        super().__init__()
        self.found, self.count = [], 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        leaves = [one for one in tree_leaves((args, kwargs, result)) if isinstance(one, torch.Tensor)]
        devices = {one.device.type for one in leaves if one.device.type == "meta" or one.dim()}
        if len(devices) > 1:
            self.found.append(str(func))
        self.count += "meta" in devices
        return result


GENERATORS = {
    "flow": lambda device: FlowGenerator(tiny_checkpoint(), 3, device),
    "ddpm": lambda device: DdpmGenerator(tiny_checkpoint("ddpm"), 3, device),
    "regression": lambda device: RegressionGenerator(tiny_checkpoint("regression"), None, device),
}


@pytest.mark.parametrize(
    ("name", "conditions"), [("flow", Conditions()), ("flow", KNOWN), ("ddpm", KNOWN), ("regression", KNOWN)]
)
def test_sampling_reads_no_value_from_the_device_and_copies_none_to_it(name, conditions):
    """On a device without values: what would make a program wait for a GPU cannot be done there, or is noted."""
    generator = GENERATORS[name]("meta")
    generator.tile = 2
    generator.sample_phase(torch.ones(3, 20, 24, device="meta"), keys(3), conditions)  # copies a table, once
    with Waits() as waits, Crossings() as crossings:
        phasor = generator.sample_phase(torch.ones(3, 20, 24, device="meta"), keys(3), conditions)
    assert (phasor.shape, phasor.dtype, phasor.device.type) == ((3, 20, 24), torch.complex64, "meta")
    assert crossings.count > 100
    assert (waits.found, crossings.found) == ([], [])


def test_a_tile_costs_no_more_calls_than_a_slice():
    """A call of a GPU's kernel costs some microseconds whatever it does; noise drawn slice by slice had thousands."""
    counts = []
    for tile in (2, 16):
        generator = GENERATORS["flow"]("meta")
        generator.tile = tile
        with Crossings() as crossings:
            generator.sample_phase(torch.ones(tile, 20, 24, device="meta"), keys(tile), KNOWN)
        counts.append(crossings.count)
    assert counts[1] < counts[0] + 200


@pytest.mark.parametrize("name", GENERATORS)
def test_a_padded_tile_has_the_bytes_of_a_full_one(name):
    generator, magnitude = GENERATORS[name]("cpu"), torch.from_numpy(make_magnitude(4, 21))
    generator.tile = 4
    full = generator.sample_phase(magnitude, keys(4), KNOWN)
    for count in (1, 3):
        assert torch.equal(generator.sample_phase(magnitude[:count], keys(count), KNOWN), full[:count])


def test_what_makes_a_program_wait_is_noted():
    with Waits() as waits, Crossings() as crossings:
        there = torch.ones(4).to("meta")
        torch.tensor([1.0], device="meta")
        there.new_tensor([2.0])
        with pytest.raises(RuntimeError):
            there.sum().item()
    assert waits.found == ["to", "tensor", "new_tensor"]
    assert crossings.found == ["aten._to_copy.default"]


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("name", GENERATORS)
@pytest.mark.parametrize("spacing_mm", [(0.9, 1.6), (1.5, 1.5)])
def test_bytes_are_the_same_with_copies_beside_the_work(name, spacing_mm):
    generator = GENERATORS[name]("cuda")
    magnitude = make_magnitude(3 * GPU_TILE + 5, 50)
    submitter = make_submitter(generator)
    assert isinstance(submitter, CudaSubmitter)
    plain, plain_s = send_all(InlineSubmitter(generator), magnitude, None, GPU_TILE)
    assert np.abs(np.abs(plain) - 1).max() < 1e-5
    for size in (None, GPU_TILE, 2 * GPU_TILE, 100):
        for _ in range(3):  # memory is used again, by other tensors
            phasor, seconds = send_all(submitter, magnitude, size, GPU_TILE)
            assert phasor.tobytes() == plain.tobytes()
            assert all(one > 0 for one in (*seconds, *plain_s))


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("name", GENERATORS)
def test_sampling_does_not_wait_for_the_gpu(name):
    generator = GENERATORS[name]("cuda")
    magnitude = torch.from_numpy(make_magnitude(18, 48)).to("cuda")
    generator.sample_phase(magnitude, keys(18), KNOWN)  # plans and memory are made at the first call
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        generator.sample_phase(magnitude, keys(18), KNOWN)
    finally:
        torch.cuda.set_sync_debug_mode("default")


class Sleeping:
    """Its device does nothing for a while, a second or so, before it gives a phasor."""

    name, nfe, tile, device, families = "diffusion", 1, 16, "cuda", None

    def sample_phase(self, magnitude, keys, conditions):
        torch.cuda._sleep(2_000_000_000)
        return torch.polar(torch.ones_like(magnitude), magnitude)


@pytest.mark.gpu
@needs_gpu
def test_the_next_batch_is_copied_while_one_is_sampled():
    submitter = make_submitter(Sleeping())
    magnitude = make_magnitude(2, 64)
    first = submitter.send(magnitude[:1], keys(1), KNOWN)
    second = submitter.send(magnitude[1:], keys(1), KNOWN)
    submitter.upload.synchronize()
    assert not torch.cuda.current_stream().query()  # the copy of the second is done before the first is sampled
    for pending, expected in ((first, magnitude[:1]), (second, magnitude[1:])):
        phasor, seconds = pending()
        np.testing.assert_allclose(phasor, np.exp(1j * expected.astype(np.float64)), atol=2e-3)
        assert seconds > 0.1


@pytest.mark.gpu
@needs_gpu
def test_a_gpu_with_little_memory_names_the_tile_that_fits_and_continues(tmp_path):
    rows = read_manifest(write_volumes(tmp_path, 1, 2 * GPU_TILE, 1024))
    generator = make_generator("diffusion", None, 1, "cuda")
    worker = open_smooth_worker(tmp_path / "c.zarr")
    worker = replace(worker, generator=generator, recipe=replace(worker.recipe, tile=Tile(slices=GPU_TILE)))
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(2 * 2**30 / total)
    try:
        outcome = build_volume(Task(rows[0]), worker)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert (outcome.status, outcome.reason) == ("failed", "too_large")
    assert "tiles of 16 slices" in outcome.message and "would fit" in outcome.message
    assert generator.tile == GPU_TILE
    assert build_volume(Task(rows[0]), worker).status == "built"
