"""What of a machine may change the last bits of a result: its environment class."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from augment.errors import RequestError
from augment.recipe import ALGORITHM

MIXED_HELP = "they would not give equal bytes; use workers of one kind, or --allow-mixed-devices"


@dataclass(frozen=True)
class Machine:
    """A worker's kind of machine: "cuda" or "cpu", the version of our algorithm, and its class for either device."""

    kind: str
    algorithm: int
    classes: dict[str, dict[str, str]]


def describe_machine() -> Machine:
    """Describe the machine of this process."""
    kind = device_kind()
    return Machine(kind, ALGORITHM, {device: environment_class(device) for device in {"cpu", kind}})


def device_kind() -> str:
    """Say where a model runs on this machine: "cuda" where there is a usable GPU, else "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def environment_class(device: str) -> dict[str, str]:
    """Describe what may change the last bits of work on `device` ("cpu" or "cuda") of this machine.

    Also work on a GPU has its Fourier transforms on the CPU, so the CPU's instruction set always counts.
    """
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "cpu": f"{_cpu_vendor()} {torch.backends.cpu.get_cpu_capability()}",
        "architecture": platform.machine(),
        "torch": torch.__version__,
    }


def common_device(machines: Mapping[str, Machine], uses_model: bool) -> str:
    """Say on which device all workers work; without a model that is always the CPU.

    Raises
    ------
    RequestError
        If workers run another version of this package, or only some have a GPU: tiles differ between the two.
    """
    for address, machine in machines.items():
        if machine.algorithm != ALGORITHM:
            raise RequestError(
                f"worker {address} has algorithm version {machine.algorithm}, this program {ALGORITHM}; install the "
                "same version everywhere"
            )
    if not uses_model:
        return "cpu"
    kinds = {machine.kind: address for address, machine in machines.items()}
    if len(kinds) > 1:
        raise RequestError(
            f"worker {kinds['cuda']} has a GPU and worker {kinds['cpu']} has none; one recipe cannot be made on both; "
            "use workers of one kind"
        )
    return next(iter(kinds))


def common_classes(machines: Mapping[str, Machine], device: str, allow_mixed: bool) -> list[dict[str, str]]:
    """List the environment classes of the workers, one unless mixed ones are allowed.

    Raises
    ------
    RequestError
        If they are mixed and must not be.
    """
    classes: list[dict[str, str]] = []
    for machine in machines.values():
        if machine.classes[device] not in classes:
            classes.append(machine.classes[device])
    if len(classes) > 1 and not allow_mixed:
        listed = "; ".join(describe_class(one) for one in classes)
        raise RequestError(f"the workers are of {len(classes)} kinds ({listed}): {MIXED_HELP}")
    return classes


def describe_class(environment: Mapping[str, object]) -> str:
    """Say an environment class in one line."""
    return ", ".join(str(environment.get(key)) for key in ("device", "cpu", "architecture", "torch"))


def _cpu_vendor() -> str:
    """The maker: numeric libraries choose their code by it too."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    vendors = [line.partition(":")[2].strip() for line in lines if line.startswith(("vendor_id", "CPU implementer"))]
    return vendors[0] if vendors else platform.processor() or "unknown"
