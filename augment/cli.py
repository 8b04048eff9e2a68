"""The command line, `rephase`: parse it, run the command, print its result, return the exit status.

To add a command, write a module with `register(commands)` in `augment/commands` and name it in `GROUPS`.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

from rephase.commands import audit, bench, build, coils, corpus, demo, export, manifest, model, weights
from rephase.commands.result import CommandResult
from rephase.errors import RephaseError, RequestError, is_disk_full
from rephase.redaction import without_secrets

GROUPS = (manifest, audit, build, coils, corpus, export, model, weights, bench, demo)

FAILED = 1
WRONG_REQUEST = 2
INTERRUPTED = 130

_PATH_ERRORS = {
    errno.EACCES, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EPERM, errno.EROFS
}  # fmt: skip

_DESCRIPTION = """\
Turn magnitude-only MRI archives into synthetic k-space corpora in Zarr, on Dask.

A manifest lists the volumes. 'build' samples a phase for every slice, computes its k-space and commits each volume to
a corpus. Training code reads the corpus with rephase.KSpaceSlices."""

_EXAMPLES = """\
examples:
  rephase demo                                        # all steps, on volumes of installed packages
  rephase manifest scan /archive/brain -o brain.csv   # one row per magnitude volume
  rephase plan brain.csv brain.zarr                   # dry run: sizes, memory, time
  rephase build brain.csv brain.zarr                  # run it again to resume
  rephase verify brain.zarr && rephase report brain.zarr

exit status: 0 all done; 1 some volumes failed or are damaged; 2 usage error; 130 interrupted"""


def make_parser() -> argparse.ArgumentParser:
    """Return the parser with all sub-commands."""
    parser = argparse.ArgumentParser(
        prog="rephase",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for group in GROUPS:
        group.register(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv
        Arguments without the program's name; those of the process if None.

    Returns
    -------
    status
        0 success; 1 some volumes failed; 2 usage error; 130 interrupted.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    parser = make_parser()
    try:
        arguments = parser.parse_args(words)
    except SystemExit as end:  # after --help, or a wrong argument
        return int(end.code or 0)
    if arguments.version:
        print(_version())
        return 0
    if not hasattr(arguments, "handler"):
        parser.print_help()
        return WRONG_REQUEST
    try:
        os.getcwd()  # noqa: PTH109
    except OSError as error:
        print(f"the working folder cannot be used ({error.strerror}); expected one that exists; cd", file=sys.stderr)
        return WRONG_REQUEST
    arguments.argv, arguments.run = words, main
    with _Signals():
        try:
            return _run(arguments)
        except Exception:  # an error of the program: its traceback, which may show a URL
            print(without_secrets(traceback.format_exc()), end="", file=sys.stderr)
            return FAILED


def _run(arguments: argparse.Namespace) -> int:
    try:
        result: CommandResult = arguments.handler(arguments)
        _print(result, getattr(arguments, "json", False))
        return result.status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of the output, such as `head`, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except RephaseError as error:
        return _refuse(error, arguments)
    except OSError as error:
        if not is_disk_full(error) and not (error.filename and error.errno in _PATH_ERRORS):
            raise
        where = f"{os.fsdecode(error.filename)}: " if error.filename else ""  # the error of a write has no name
        fix = "expected a path that this user may read and write, with free space; choose another"
        return _refuse(RequestError(f"{where}{error.strerror}; {fix}"), arguments)


def _refuse(error: RephaseError, arguments: argparse.Namespace) -> int:
    """Print why a request was refused: to standard error, and with `--json` as an object to standard output."""
    print(error, file=sys.stderr)
    if getattr(arguments, "json", False):
        data = error.data if isinstance(error, RequestError) else {}
        print(json.dumps({"error": str(error).splitlines(), **data}, indent=2), flush=True)
    return WRONG_REQUEST


def _print(result: CommandResult, as_json: bool) -> None:
    if as_json and result.data is not None:
        print(without_secrets(json.dumps(result.data, indent=2)))
    else:
        for line in result.lines:
            print(without_secrets(line))
    sys.stdout.flush()


def _version() -> str:
    from importlib.metadata import version

    return f"rephase {version('rephase')}"


class _Signals:
    """Lets SIGTERM end a command as Ctrl-C does; restores the previous handlers, for callers inside a program."""

    def __enter__(self) -> None:
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
            signal.signal(signal.SIGTERM, _interrupt)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
