"""The environment class of a machine: what may change the last bits of a result."""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from rephase.diffusion.devices import choose_device
from rephase.errors import RequestError
from rephase.pipeline.recipe import ALGORITHM

MIXED_HELP = "they would not give equal bytes; use workers of one kind, or --allow-mixed-devices"


_PACKAGES = ("rephase", "dask", "distributed", "numpy", "zarr", "numcodecs")
"""Packages whose versions are compared; that of torch is part of the class."""


@dataclass(frozen=True)
class Machine:
    """The machine type of a worker.

    Attributes
    ----------
    kind
        "cuda" or "cpu".
    algorithm
        Version of the algorithm of this package.
    classes
        Environment class per device.
    name
        Name of its device.
    versions
        Versions of Python and of the installed packages.
    """

    kind: str
    algorithm: int
    classes: dict[str, dict[str, str]]
    name: str = ""
    versions: dict[str, str] = field(default_factory=dict)


def describe_machine() -> Machine:
    """Describe the machine of this process."""
    kind = choose_device()
    classes = {device: environment_class(device) for device in {"cpu", kind}}
    capability = torch.backends.cpu.get_cpu_capability().lower()
    name = classes["cuda"]["device"] if kind == "cuda" else f"CPU ({cpu_model()}, {capability})"
    return Machine(kind, ALGORITHM, classes, name, package_versions())


def machine_facts(device: str = "cpu") -> dict[str, Any]:
    """Return the facts that measured figures depend on: CPU, usable cores, device, versions, load average.

    Parameters
    ----------
    device
        "cpu" or "cuda": where the network runs.
    """
    return {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "load": round(os.getloadavg()[0], 2),
    }


def package_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that client and workers should share."""
    versions = {"python": ".".join(platform.python_version_tuple()[:2])}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # a source tree that was never installed
            continue
    return versions


def count_devices(machines: Mapping[str, Machine]) -> dict[str, int]:
    """Count the workers of each device, the most frequent first."""
    return dict(Counter(machine.name or machine.kind for machine in machines.values()).most_common())


def version_differences(machines: Mapping[str, Machine]) -> list[str]:
    """List the packages whose version differs in a worker, as `NAME: client VERSION, worker VERSION`."""
    here = package_versions()
    found = {
        f"{package}: client {here[package]}, worker {version}"
        for machine in machines.values()
        for package, version in vars(machine).get("versions", {}).items()
        if here.get(package, version) != version
    }
    return sorted(found)


def environment_class(device: str) -> dict[str, str]:
    """Describe everything that may change the last bits of results on `device` ("cpu" or "cuda") of this machine.

    With a GPU the Fourier transforms still run on the CPU, so its instruction set is always included.
    """
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "cpu": f"{_cpu_vendor()} {torch.backends.cpu.get_cpu_capability()}",
        "architecture": platform.machine(),
        "torch": torch.__version__,
    }


def common_device(machines: Mapping[str, Machine], uses_model: bool) -> str:
    """Return the device that all workers use; without a model always the CPU.

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
        for difference in version_differences({address: machine}):
            if difference.startswith("rephase:"):
                raise RequestError(f"worker {address}: {difference}; install the same version everywhere")
    if not uses_model:
        return "cpu"
    kinds = {machine.kind: address for address, machine in machines.items()}
    if len(kinds) > 1:
        raise RequestError(
            f"worker {kinds['cuda']} has a GPU and worker {kinds['cpu']} has none; one recipe cannot be built on both; "
            "use workers of one kind"
        )
    return next(iter(kinds))


def common_classes(machines: Mapping[str, Machine], device: str, allow_mixed: bool) -> list[dict[str, str]]:
    """List the environment classes of the workers, one unless mixed ones are allowed.

    Raises
    ------
    RequestError
        If they are mixed and that is not allowed.
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
    """Format an environment class as one line."""
    return ", ".join(str(environment.get(key)) for key in ("device", "cpu", "architecture", "torch"))


def cpu_model() -> str:
    """Return the model name of the CPU."""
    return _cpu_fact("model name")


def _cpu_vendor() -> str:
    """Return the vendor, by which numeric libraries choose their code too."""
    return _cpu_fact("vendor_id", "CPU implementer")


def _cpu_fact(*keys: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    facts = [line.partition(":")[2].strip() for line in lines if line.startswith(keys)]
    return facts[0] if facts else platform.processor() or "unknown"
