"""Where the package cannot run, it says so in one line and before anything else."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("system", ["darwin", "win32"])
@pytest.mark.parametrize("command", [True, False])
def test_other_systems_are_refused_in_one_line(system, command):
    name = "/usr/bin/rephase" if command else "script.py"
    code = f"import sys; sys.platform = {system!r}; sys.argv = [{name!r}, 'build']; import rephase"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stdout == ""
    *before, last = done.stderr.strip().splitlines()
    assert f"rephase cannot run here: found {system}; expected Linux; use WSL 2" in last
    assert bool(before) is not command  # a program gets ImportError, with its traceback
