"""What may import what: the folders know nothing of what stands above them, and heavy libraries stay in their place."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("augment", "cluster", "diffusion", "manifests")
MAY_IMPORT = {
    "manifests": {"manifests"},
    "diffusion": {"diffusion"},
    "cluster": {"cluster"},
    "augment": set(FOLDERS),
}
PLACES = {
    "pydicom": ("augment/readers/",),
    "nibabel": ("augment/readers/",),
    "h5py": ("augment/readers/", "augment/exports/", "augment/bench/"),
    "gdcm": ("augment/readers/",),
    "zarr": ("augment/encoding.py", "augment/bench/"),
    "dask": ("augment/run.py", "cluster/"),
    "distributed": ("augment/run.py", "cluster/"),
}
MODULES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


@functools.cache
def imported(path: Path) -> set[str]:
    """Top-level names of all imports in a module, also those inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add((node.module or "").split(".")[0])
    return found


def test_there_is_something_to_look_at():
    assert {path.relative_to(ROOT).parts[0] for path in MODULES} == set(FOLDERS)


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_imports_only_what_it_may(folder):
    for path in (ROOT / folder).rglob("*.py"):
        wrong = imported(path) & set(FOLDERS) - MAY_IMPORT[folder]
        assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}"


@pytest.mark.parametrize("library", PLACES)
def test_a_heavy_library_stays_in_its_place(library):
    for path in MODULES:
        place = path.relative_to(ROOT).as_posix()
        if library in imported(path):
            assert place.startswith(PLACES[library]), f"{place} imports {library}"


def test_no_pickle():
    for path in MODULES:
        assert not imported(path) & {"pickle", "cloudpickle", "dill", "joblib"}, path


def test_help_needs_no_heavy_library():
    import subprocess
    import sys

    code = (
        "import sys\nfrom rephase.cli import main\nmain(['build', '--help'])\n"
        "heavy = {'torch', 'numpy', 'zarr', 'distributed'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
