"""Refuse systems that are not supported, and keep the working folder out of the import path.

The latter of the command, and of the processes that it starts. A folder of downloads may hold a `numpy.py`. Python
looks into the working folder first for `python -m`, for the `python -c` by which `multiprocessing` starts its helpers,
and for an empty entry of PYTHONPATH. Imported before anything else by the package, and imports only what Python has
already loaded.
"""

from __future__ import annotations

import os
import sys

_NAME = __name__.partition(".")[0]


def is_command() -> bool:
    """Check whether Python runs the command of this package, rather than a program that imports it."""
    if sys.argv[:1] == ["-m"]:  # while Python looks for the module: its name is the last word before the arguments
        name = sys.orig_argv[len(sys.orig_argv) - len(sys.argv)].removeprefix("-m")
        return name.partition(".")[0] == _NAME
    return os.path.basename(sys.argv[0] if sys.argv else "").removesuffix(".exe") == _NAME  # noqa: PTH119


def check_system() -> None:
    """Refuse systems other than Linux: in one line from the command, as ImportError in a program.

    The package needs locks, process limits and `/proc` of Linux; elsewhere it would fail later, with an error that does
    not say why. (Old versions of Python are refused by pip.)
    """
    if sys.platform != "linux":
        message = f"rephase cannot run here: found {sys.platform}; expected Linux; use WSL 2 or a container"
        raise SystemExit(message) if is_command() else ImportError(message)  # the former prints it, exit status 1


def safe_environment() -> dict[str, str]:
    """Return the variables by which Python processes do not look into their working folder; PYTHONPATH if it is set."""
    entries = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    kept = os.pathsep.join(entry for entry in entries if entry not in ("", os.curdir))
    return {"PYTHONSAFEPATH": "1"} | ({"PYTHONPATH": kept} if "PYTHONPATH" in os.environ else {})


def leave_working_folder() -> None:
    """Remove the working folder from the import path of this process, unless the package itself is there."""
    before = set(os.environ.get("PYTHONPATH", "").split(os.pathsep))
    try:
        here = os.getcwd()  # noqa: PTH109 -- pathlib is not loaded yet
    except OSError:  # it was deleted, which the command reports
        here = ""
    unasked = {"", os.curdir} | ({here} if not before & {here} else set())
    if os.path.dirname(os.path.dirname(os.path.abspath(__file__))) not in unasked:  # noqa: PTH100, PTH120
        sys.path[:] = [entry for entry in sys.path if entry not in unasked]
    os.environ.update(safe_environment())


check_system()
if is_command():
    leave_working_folder()
