"""The command line as a user meets it: what is printed where, and the exit status."""

from __future__ import annotations

import argparse
import errno
import json
import os
import shlex
import signal

import nibabel as nib
import numpy as np
import pytest
from volumes import phantom, write_manifest, write_volumes

from rephase import cli
from rephase.builder.options import ARGUMENTS
from rephase.cli import main, make_parser
from rephase.commands.result import CommandResult, size
from rephase.errors import RequestError


def all_parsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    found = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                deeper = all_parsers(inner)
                found |= {f"{name} {rest}": one for rest, one in deeper.items()} or {name: inner}
    return found


COMMANDS = all_parsers(make_parser())


def test_the_commands_exist():
    expected = {
        "manifest scan",
        "manifest check",
        "plan",
        "build",
        "status",
        "verify",
        "repair",
        "report",
        "train",
        "demo",
    }
    assert expected <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_describes_and_its_examples_can_be_parsed(command, capsys):
    assert main([*command.split(), "--help"]) == 0
    text = capsys.readouterr().out
    parser = COMMANDS[command]
    assert parser.description and "examples:" in text and text.startswith(f"usage: rephase {command}")
    assert all(len(line) <= 120 for line in text.splitlines())
    examples = text.split("examples:\n")[1].strip().splitlines()
    for example in examples:
        words = shlex.split(example, comments=True)
        assert words[0] == "rephase"
        assert callable(make_parser().parse_args(words[1:]).handler)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_explained(command):
    assert [action.dest for action in COMMANDS[command]._actions if not action.help] == []


def test_the_help_lists_the_weights():
    assert "permissive, teacher" in ARGUMENTS["checkpoint"].help


def test_no_command_shows_the_help(capsys):
    assert main([]) == 2
    assert "usage: rephase" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("rephase 0.")
    assert main(["fly"]) == 2
    assert "invalid choice: 'fly'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (None, "m.csv:1: cannot be read"),
        ([], "m.csv"),
        (["a,a.npy", "a,b.npy"], "m.csv:3"),
        (["../x,a.npy"], "../x"),
        (["a,a.npy,tiff"], "tiff"),
    ],
)
def test_a_wrong_manifest_is_named_and_nothing_starts(tmp_path, capsys, monkeypatch, lines, expected):
    monkeypatch.setattr("rephase.builder.run.connected", None)  # would fail loudly
    path, root = tmp_path / "m.csv", tmp_path / "c.zarr"
    if lines is not None:
        write_manifest(path, lines, "volume_id,path,format" if lines and lines[0].count(",") == 2 else "volume_id,path")
    for command in ("plan", "build"):
        assert main([command, str(path), str(root), "--phase", "smooth"]) == 2
        captured = capsys.readouterr()
        assert expected in captured.err and "Traceback" not in captured.err and captured.out == ""
    assert not root.exists() and not (tmp_path / "c.zarr.run").exists()


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("v0.npy", "is a file; expected"),
        ("v0.npy/c.zarr", "v0.npy/c.zarr: cannot be written (Not a directory); expected"),
        ("/proc/none/c.zarr", "/proc/none/c.zarr: cannot be written (No such file or directory); expected"),
        (".", "not empty"),
    ],
)
def test_a_place_where_no_corpus_can_be_is_refused_before_anything_starts(
    tmp_path, capsys, monkeypatch, place, expected
):
    manifest = write_volumes(tmp_path / "volumes", 1)
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr("rephase.builder.run.connected", lambda _: pytest.fail("a cluster was started"))
    root = manifest.parent / place
    assert main(["build", str(manifest), str(root), "--phase", "zero"]) == 2
    message = capsys.readouterr().err
    assert expected in message and message.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--phase", "fancy"], "invalid choice: 'fancy'"),
        (["--replicas", "0"], "expected a whole number of 1 or more"),
        (["--memory-limit", "much"], "expected a size such as 8GB"),
        (["--phase", "smooth", "--steps", "2"], "--steps requires --phase diffusion"),
        (["--phase", "diffusion", "--checkpoint", "none.safetensors"], "no such file"),
        (["--phase", "smooth", "--cluster", "slurm:x"], "x: cannot be read"),
        (["--phase", "smooth", "--keep-columns", "nothere"], "nothere"),
        (["--phase", "smooth", "--keep-columns", "site,path"], "--keep-columns path"),
        (["--phase", "zero", "--replicas", "2"], "--replicas 2: --phase zero"),
    ],
)
def test_a_wrong_option_is_named_and_nothing_starts(tmp_path, capsys, words, expected):
    manifest, root = write_volumes(tmp_path, 1), tmp_path / "c.zarr"
    assert main(["build", str(manifest), str(root), *words]) == 2
    captured = capsys.readouterr()
    assert expected in captured.err and "Traceback" not in captured.err
    assert not root.exists()


def test_a_build_from_first_to_last_command(scheduler, tmp_path, capsys):
    manifest, root = write_volumes(tmp_path, 2), tmp_path / "c.zarr"
    (tmp_path / "text.nii.gz").write_text("not an image")
    with manifest.open("a") as file:
        file.write("text,text.nii.gz\n")
    words = ["build", str(manifest), str(root), "--phase", "smooth", "--cluster", scheduler]

    assert main([*words, "--json"]) == 1
    captured = capsys.readouterr()
    summary = json.loads(captured.out)
    assert (summary["built"], summary["failed"]["text"]["reason"]) == (2, "unreadable")
    assert "dashboard: http" in captured.err

    assert main(words) == 1
    assert "--retry-failed" in capsys.readouterr().out

    assert main(["verify", str(root)]) == 0
    assert "2 volumes, 6 slices" in capsys.readouterr().out
    assert main(["status", str(root), "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert (status["num_committed"], list(status["failures"])) == (2, ["text"])
    assert main(["status", str(root)]) == 0
    assert "text: unreadable:" in capsys.readouterr().out
    assert main(["report", str(root), "-o", str(tmp_path / "r.html")]) == 0
    assert (tmp_path / "r.html").stat().st_size > 1000
    capsys.readouterr()

    shard = next((root / "volumes" / "v0" / "kspace").glob("c.*"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    assert main(["verify", str(root), "--json"]) == 1
    assert {fault[0] for fault in json.loads(capsys.readouterr().out)["problems"]} == {"v0"}


def test_scan_makes_a_manifest_with_the_same_names_twice(tmp_path, capsys):
    import nibabel

    (tmp_path / "images").mkdir()
    for number in range(2):
        image = nibabel.Nifti1Image(phantom(number, (16, 16, 5)), np.diag([1.0, 1.0, 4.0, 1.0]))
        nibabel.save(image, tmp_path / "images" / f"patient{number}.nii.gz")
    manifest = tmp_path / "m.csv"
    assert main(["manifest", "scan", str(tmp_path / "images"), "-o", str(manifest), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_volumes"] == 2
    first = manifest.read_text()
    assert (tmp_path / "m.csv.salt").stat().st_mode & 0o077 == 0
    assert main(["manifest", "scan", str(tmp_path / "images"), "-o", str(manifest)]) == 0
    assert manifest.read_text() == first
    assert main(["manifest", "check", str(manifest), "--files"]) == 0
    (tmp_path / "images" / "patient0.nii.gz").unlink()
    assert main(["manifest", "check", str(manifest)]) == 0
    assert main(["manifest", "check", str(manifest), "--files"]) == 2
    assert "patient0.nii.gz does not exist" in capsys.readouterr().err


def test_scan_names_what_it_lost_in_one_line_each(tmp_path, capsys):
    data = tmp_path / "data"
    data.mkdir()
    np.save(data / "array.npy", phantom(0))
    nib.Nifti1Image(phantom(0), np.eye(4)).to_filename(data / "fine.nii")
    for name in ("new\nline.nii", os.fsdecode(b"bad\xff.nii")):
        (data / name).write_bytes((data / "fine.nii").read_bytes())
    assert main(["manifest", "scan", str(data), "-o", str(tmp_path / "m.csv")]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("unreadable: ")]
    assert [line.split(": its name")[0].rsplit("/", 1)[-1] for line in lines] == ["bad?.nii", "new?line.nii"]


def test_scan_of_nothing_is_a_wrong_request(tmp_path, capsys):
    assert main(["manifest", "scan", str(tmp_path / "gone"), "-o", str(tmp_path / "m.csv")]) == 2
    (tmp_path / "empty").mkdir()
    assert main(["manifest", "scan", str(tmp_path / "empty"), "-o", str(tmp_path / "m.csv")]) == 2
    assert "no magnitude volume" in capsys.readouterr().err
    text = tmp_path / "empty" / "text.nii.gz"
    text.write_text("no image")
    assert main(["manifest", "scan", str(tmp_path / "empty"), "-o", str(tmp_path / "m.csv")]) == 2
    assert capsys.readouterr().err.startswith(f"unreadable: {text}: ")
    assert not (tmp_path / "m.csv").exists()


@pytest.mark.parametrize("place", ["", "gone/m.csv"])
def test_scan_to_where_no_file_can_be_leaves_nothing(tmp_path, capsys, place):
    write_volumes(tmp_path / "images", 1)
    before = sorted(tmp_path.rglob("*"))
    assert main(["manifest", "scan", str(tmp_path / "images"), "-o", str(tmp_path / place)]) == 2
    assert str(tmp_path / place) in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_url_of_no_known_kind_is_a_wrong_request(tmp_path, capsys):
    manifest = write_volumes(tmp_path, 1)
    for words in (["plan", str(manifest), "nosuch://x/c.zarr"], ["status", "nosuch://x/c.zarr"]):
        assert main(words) == 2
        line = capsys.readouterr().err
        assert line.startswith("nosuch://x/c.zarr: cannot be opened (") and line.count("\n") == 1


@pytest.mark.parametrize("command", ["status", "verify", "repair", "report"])
def test_no_corpus_is_a_wrong_request(tmp_path, capsys, command):
    assert main([command, str(tmp_path / "none.zarr")]) == 2
    assert "no corpus here" in capsys.readouterr().err


def fail(error: Exception) -> CommandResult:
    raise error


def run_handler(monkeypatch, handler) -> int:
    parser = argparse.ArgumentParser()
    parser.set_defaults(handler=handler, version=False)
    monkeypatch.setattr(cli, "make_parser", lambda: parser)
    return main([])


def test_a_place_that_cannot_be_written_is_one_line_and_other_errors_are_not_hidden(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_bytes(b"")
    assert main(["demo", str(tmp_path / "file")]) == 2
    assert main(["demo", str(tmp_path / "file" / "below")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("; expected")[0] for line in lines] == [
        f"{tmp_path}/file: File exists",
        f"{tmp_path}/file/below: Not a directory",
    ]
    assert run_handler(monkeypatch, lambda _: (tmp_path / "gone").read_bytes()) == 1
    assert "Traceback" in (shown := capsys.readouterr().err) and "FileNotFoundError" in shown
    assert run_handler(monkeypatch, lambda _: fail(OSError(errno.EPERM, "Permission"))) == 1
    assert "Traceback" in (shown := capsys.readouterr().err) and "Permission" in shown
    assert run_handler(monkeypatch, lambda _: fail(OSError(errno.ENOSPC, "No space left on device"))) == 2
    assert capsys.readouterr().err.startswith("No space left on device; expected")


def test_sigterm_ends_a_command_as_ctrl_c_does(monkeypatch, capsys):
    def handler(_):
        os.kill(os.getpid(), signal.SIGTERM)
        return CommandResult(0)

    before = signal.getsignal(signal.SIGTERM)
    assert run_handler(monkeypatch, handler) == 130
    assert capsys.readouterr().err == "interrupted\n"
    assert signal.getsignal(signal.SIGTERM) == before


def test_request_errors_are_printed_as_they_are_and_defects_are_not_hidden(monkeypatch, capsys):
    def refuse(_):
        raise RequestError("first\nsecond")

    def stumble(_):
        raise ValueError("a defect")

    assert run_handler(monkeypatch, refuse) == 2
    assert capsys.readouterr().err == "first\nsecond\n"
    assert run_handler(monkeypatch, stumble) == 1
    assert "Traceback" in (shown := capsys.readouterr().err) and "ValueError: a defect" in shown


@pytest.mark.parametrize(("text", "expected"), [("8GB", 8 * 10**9), ("500MiB", 500 * 2**20), ("1.5k", 1500), ("7", 7)])
def test_sizes_are_parsed(text, expected):
    assert size(text) == expected


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "1 parsec", "0"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="expected a size"):
        size(text)
