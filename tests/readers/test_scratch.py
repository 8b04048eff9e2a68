from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

HOLD = """
import pathlib, sys, time
from rephase.readers.sources import Scratch
folder = Scratch()
(pathlib.Path(folder.name) / "slice").write_text("somebody")
print(folder.name, flush=True)
time.sleep(float(sys.argv[1]))
"""


def hold(seconds, tmp_path):
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", HOLD, str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True)


def test_the_scratch_of_a_killed_process_is_cleared_by_the_next_one(tmp_path):
    killed, alive = hold(60, tmp_path), hold(60, tmp_path)
    try:
        left, used = killed.stdout.readline().strip(), alive.stdout.readline().strip()
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert Path(left, "slice").exists()
        for folder in (left, used):
            os.utime(folder, (time.time() - 120,) * 2)
        following = hold(0, tmp_path)
        following.communicate()
        assert following.returncode == 0
        assert [path.name for path in tmp_path.iterdir()] == [Path(used).name]
    finally:
        for process in (killed, alive):
            process.kill()
            process.communicate()
