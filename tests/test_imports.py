"""Which wing may import which, which modules may import heavy libraries, and what pyproject.toml declares."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions

import nibabel
import numpy as np
import pytest
from paths import PROJECT
from volumes import phantom

FOLDERS = ("augment", "cluster", "diffusion", "manifests")
GROUND = {
    "errors", "text", "redaction", "startup", "sequences", "facts", "files", "counters", "formats", "config",
    "numpy_fourier", "pages", "metrics", "progress",
}  # fmt: skip
MAY_IMPORT = {
    # the ground floor
    "errors": {"redaction", "text"},
    "text": set(),
    "redaction": {"text"},
    "startup": set(),
    "sequences": set(),
    "facts": {"sequences"},
    "files": {"errors", "text"},
    "counters": set(),
    "progress": {"text"},
    "numpy_fourier": set(),
    "formats": set(),
    "config": {"errors"},
    "pages": set(),
    "metrics": {"errors"},
    # folders that know nothing of volumes on disk
    "manifests": GROUND,
    "diffusion": GROUND,
    "cluster": GROUND,
    # what a scanner does to an image
    "scanner": GROUND | {"diffusion"},
    # formats: a reader knows no corpus, a corpus does not know who wrote it
    "hdf5_files": GROUND,
    "ismrmrd_header": GROUND,
    "readers": GROUND | {"manifests", "hdf5_files", "ismrmrd_header"},
    "corpus": GROUND | {"diffusion", "scanner"},
    # a loader needs torch and the format, nothing else
    "data": GROUND | {"corpus", "diffusion", "hdf5_files", "ismrmrd_header", "scanner"},
    "exports": GROUND | {"corpus", "hdf5_files", "ismrmrd_header"},
    # what happens to one volume knows no Dask and no run
    "pipeline": GROUND | {"manifests", "readers", "corpus", "diffusion", "scanner"},
    "pictures": GROUND | {"pipeline"},
    "builder": GROUND | {"manifests", "readers", "corpus", "diffusion", "cluster", "pipeline", "scanner"},
    # a report does not need the judge
    "reports": GROUND | {"corpus", "diffusion", "pictures", "builder"},
    # training needs no corpus
    "training": GROUND | {"manifests", "readers", "diffusion", "pipeline", "pictures"},
    "transforms": GROUND | {"data"},
    "evaluation": GROUND | {"manifests", "readers", "data", "diffusion", "pipeline", "pictures", "training"},
    "experiments": GROUND
    | {"manifests", "readers", "corpus", "data", "diffusion", "pipeline", "pictures", "builder", "evaluation"},
    "bench": GROUND | {"manifests", "diffusion", "corpus", "data", "pipeline", "builder"},
    "examples": GROUND | {"diffusion", "data"},
    # the public functions stand on everything below the command line
    "api": None,
    "phase_transform": {"api", "diffusion", "errors"},
    # the command line is imported by nobody
    "commands": None,
    "cli": GROUND | {"commands"},
    "__main__": {"cli"},
}
"""Wing by wing; None for everything below the command line."""
PLACES = {
    "pydicom": ("rephase.readers",),
    "nibabel": ("rephase.readers",),
    "h5py": (
        "rephase.readers",
        "rephase.hdf5_files",
        "rephase.exports",
        "rephase.bench",
        "rephase.data.fastmri_slices",
    ),
    "pydantic": ("rephase.config",),
    "jinja2": ("rephase.pages",),
    "dcm2niix": ("rephase.readers.dicom.convert",),
    "nrrd": ("rephase.readers.nifti.others",),
    "zarr": ("rephase.corpus.encoding", "rephase.bench"),
    "dask": ("rephase.builder", "rephase.cluster"),
    "distributed": ("rephase.builder", "rephase.cluster"),
}
"""Modules that may import a library."""


def modules() -> dict[str, str]:
    """Source of every module by its name."""
    found = {}
    for folder in FOLDERS:
        for path in sorted((PROJECT / folder).rglob("*.py")):
            parts = list(path.relative_to(PROJECT / folder).with_suffix("").parts)
            head = ["rephase"] if folder == "augment" else ["rephase", folder]
            found[".".join([*head, *(part for part in parts if part != "__init__")])] = path.read_text("utf-8")
    return found


MODULES = modules()


def wing_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


@functools.cache
def imports(module: str) -> set[str]:
    """Names of all modules that a module imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module])):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            base = node.module or ""
            found |= {full if (full := f"{base}.{name.name}") in MODULES else base for name in node.names}
    return found


def own_imports(module: str) -> set[str]:
    return {name for name in imports(module) if name in MODULES}


def top_level_imports(module: str) -> set[str]:
    """Modules of this package that are imported as a module is loaded, and not only for types."""
    found = set()
    for node in ast.parse(MODULES[module]).body:
        if isinstance(node, ast.ImportFrom):
            base = node.module or ""
            found |= {full if (full := f"{base}.{name.name}") in MODULES else base for name in node.names}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return {name for name in found if name in MODULES}


def arrows_that_run_up() -> list[str]:
    """Imports that the table does not allow, as `importer -> imported`."""
    wrong = []
    for module in MODULES:
        wing = wing_of(module)
        if not wing:  # the public face names what it exports
            continue
        allowed = MAY_IMPORT[wing]
        for name in own_imports(module):
            other = wing_of(name)
            above = {"", "__main__", "cli"} - (allowed or set())
            if other != wing and (other in above or (allowed is not None and other not in allowed)):
                wrong.append(f"{module} -> {name}")
    return sorted(wrong)


def circles() -> list[list[str]]:
    """Groups of modules that import each other as they are loaded (Tarjan's strongly connected components)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in top_level_imports(module):
            if other not in index:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], index[other])
        if low[module] == index[module]:
            group = []
            while not group or group[-1] != module:
                group.append(stack.pop())
            if len(group) > 1:
                found.append(sorted(group))

    for module in MODULES:
        if module not in index:
            visit(module)
    return found


def test_every_wing_stands_in_the_table():
    assert {wing_of(module) for module in MODULES} - {""} == set(MAY_IMPORT)


def test_no_import_runs_up():
    assert arrows_that_run_up() == []


def test_no_circle():
    assert circles() == []


@pytest.mark.parametrize("library", PLACES)
def test_a_heavy_library_stays_in_its_place(library):
    for module in MODULES:
        if library in {name.split(".")[0] for name in imports(module)}:
            assert module.startswith(PLACES[library]), f"{module} imports {library}"


def test_no_pickle():
    for module in MODULES:
        assert not {name.split(".")[0] for name in imports(module)} & {"pickle", "cloudpickle", "dill", "joblib"}, (
            module
        )


def test_every_package_is_listed_for_the_wheel():
    listed = tomllib.loads((PROJECT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["packages"]
    folders = {"augment": "rephase"} | {name: f"rephase.{name}" for name in FOLDERS[1:]}
    there = {
        ".".join([package, *path.parent.relative_to(PROJECT / folder).parts])
        for folder, package in folders.items()
        for path in (PROJECT / folder).rglob("__init__.py")
    }
    assert set(listed) == there


def test_every_library_is_declared_and_every_declared_one_is_needed():
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text("utf-8"))["project"]
    aside = ("test", "conformance", "docs", "mutants")
    extras = [lines for name, lines in project["optional-dependencies"].items() if name not in aside]
    written = sum(extras, project["dependencies"])
    declared = {re.split(r"[<>=\[ ]", line)[0].lower() for line in written}
    installed = packages_distributions()
    # fastmri: a benchmark compares with it if it is installed; _typeshed: for type checkers alone
    undeclared = {"rephase", "fastmri", "_typeshed", *sys.stdlib_module_names}
    used: set[str] = set()
    for module in MODULES:
        for library in {name.split(".")[0] for name in imports(module)} - undeclared:
            name = library.removesuffix("_core")  # pydantic pins the version of pydantic_core
            found = {one.lower().replace("_", "-") for one in installed.get(name, [name])} & declared
            assert found, f"{module} imports {library}, which pyproject.toml does not declare"
            used |= found
    assert declared == used


HEAVY = {"torch", "numpy", "zarr", "dask", "distributed", "pydantic", "pydicom", "nibabel", "h5py"}


def run_and_list_modules(*words: str) -> set[str]:
    """Libraries that a command loads in a process of its own. (What that takes is in `make figures`.)"""
    code = (
        "import contextlib, io, sys\n"
        "from rephase.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()):\n"
        f"    status = main({list(words)!r})\n"
        "print(status, *{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT, check=True)
    status, *loaded = done.stdout.split()
    assert status == "0", done.stderr
    return set(loaded)


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        *([command, "--help"] for command in ("plan", "build", "status", "verify", "repair", "report", "export")),
        *([command, "--help"] for command in ("train", "distill", "demo", "bench", "manifest", "evaluate", "weights")),
    ],
)
def test_help_loads_no_heavy_library(words):
    assert run_and_list_modules(*words) & HEAVY == set()


@pytest.fixture(scope="module")
def small_corpus(tmp_path_factory):
    """A corpus of one volume, its manifest, and a folder with an image."""
    from rephase.bench.phantom import open_smooth_worker, write_volumes
    from rephase.corpus.index_writer import write_index
    from rephase.manifests.parse import read_manifest
    from rephase.pipeline.build_volume import build_volume
    from rephase.pipeline.task import Task

    folder = tmp_path_factory.mktemp("small")
    manifest = write_volumes(folder, 1, 2, 16)
    worker = open_smooth_worker(folder / "c.zarr")
    assert build_volume(Task(read_manifest(manifest)[0]), worker).status == "built"
    write_index(worker.store, ["v0000"])
    (folder / "images").mkdir()
    image = nibabel.Nifti1Image(phantom(0, (16, 16, 5)), np.diag([1.0, 1.0, 4.0, 1.0]))
    nibabel.save(image, folder / "images" / "head.nii.gz")
    return folder


@pytest.mark.parametrize(
    ("words", "unneeded"),
    [
        (["status", "c.zarr"], {"torch", "zarr", "dask", "distributed"}),
        (["verify", "c.zarr"], {"torch", "dask", "distributed"}),
        (["report", "c.zarr"], {"torch", "dask", "distributed"}),
        (["weights"], {"torch", "zarr", "dask", "distributed"}),
        (["manifest", "check", "manifest.csv"], {"torch", "zarr", "dask", "distributed"}),
        (["manifest", "scan", "images", "-o", "scanned.csv"], {"torch", "zarr", "dask", "distributed"}),
    ],
)
def test_light_commands_load_no_torch(small_corpus, words, unneeded):
    paths = {"c.zarr", "manifest.csv", "scanned.csv", "images"}
    loaded = run_and_list_modules(*(str(small_corpus / word) if word in paths else word for word in words))
    assert loaded & unneeded == set()
