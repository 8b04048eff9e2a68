from __future__ import annotations

import subprocess
import sys

import pytest

from rephase.cluster.connect import check_spec
from rephase.cluster.errors import ClusterError
from rephase.cluster.local import WORKER_ENVIRON
from rephase.cluster.slurm.start import job_script

pytest.importorskip("rephase.cluster.slurm.jobs", reason="dask-jobqueue is not installed")

GPU = """
memory = "64GB"
walltime = "1-02:00:00"
cpus = 8
gpu = "a100:1"
jobs = 12
partition = "gpu"
account = "mri"
directives = ["--constraint=ib"]
container = "apptainer exec --nv image.sif"
python = "/opt/python"
prologue = ["module load cuda"]
interface = "ib0"
"""


def config(tmp_path, text):
    path = tmp_path / "slurm.toml"
    path.write_text(text)
    return f"slurm:{path}"


def test_the_script_of_a_gpu_job_asks_for_what_the_file_says(tmp_path):
    script = job_script(config(tmp_path, GPU)).splitlines()
    head = [line for line in script if line.startswith("#")]
    assert head == [
        "#!/usr/bin/env bash",
        "#SBATCH -J rephase",
        "#SBATCH -p gpu",
        "#SBATCH -A mri",
        "#SBATCH -n 1",
        "#SBATCH --cpus-per-task=8",
        "#SBATCH --mem=60G",
        "#SBATCH -t 1-02:00:00",
        "#SBATCH --gres=gpu:a100:1",
        "#SBATCH --constraint=ib",
    ]
    for name, value in WORKER_ENVIRON.items():
        assert f"export {name}={value}" in script
    assert script.index("module load cuda") > script.index("export OMP_NUM_THREADS=1")
    (worker,) = [line for line in script if "distributed.cli.dask_worker" in line]
    assert worker.startswith("apptainer exec --nv image.sif /opt/python -P -m distributed.cli.dask_worker tls://")
    words = worker.split()
    assert words[words.index("--nthreads") + 1] == "4" and "--nworkers" not in words
    # a worker leaves five minutes before the 93,600 s of its job are over
    assert words[words.index("--lifetime") + 1] == "93300s"
    assert words[words.index("--interface") + 1] == "ib0"


def test_without_a_gpu_every_core_has_a_worker(tmp_path):
    script = job_script(config(tmp_path, 'memory = "32GB"\nwalltime = "04:00:00"\ncpus = 8\n'))
    words = script.split()
    assert words[words.index("--nworkers") + 1] == "8"
    assert words[words.index("--nthreads") + 1] == "2"
    assert "--gres" not in script and "#SBATCH --cpus-per-task=8" in script


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "memory: .*\n.*walltime: "),
        ('memory = "1GB"\nwalltime = "04:00:00"\ngpus = 1\n', "gpus: unknown key; did you mean gpu"),
        ('memory = 32\nwalltime = "04:00:00"\n', "memory: found 32"),
        ('memory = "much"\nwalltime = "04:00:00"\n', "memory is 'much'"),
        ('memory = "1GB"\nwalltime = "4h"\n', "walltime is '4h'"),
        ('memory = "1GB"\nwalltime = "00:05:00"\n', "walltime is 00:05:00"),
        ('memory = "1GB"\nwalltime = "04:00:00"\ngpu = "a100:2"\n', "gpu is 'a100:2'"),
        ('memory = "1GB"\nwalltime = "04:00:00"\njobs = true\n', "jobs: found true"),
        ('memory = "1GB"\nwalltime = "04:00:00"\nminimum = 3\n', "minimum is 3"),
        ("memory =", "not TOML"),
    ],
)
def test_what_is_wrong_with_the_file_is_said_before_anything_starts(tmp_path, text, match):
    with pytest.raises(ClusterError, match=match):
        check_spec(config(tmp_path, text))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ClusterError, match=r"none\.toml: cannot be read"):
        check_spec(f"slurm:{tmp_path}/none.toml")


def test_ctrl_c_stays_what_it_was_when_jobs_are_submitted():
    lines = [
        "import signal",
        "before = signal.getsignal(signal.SIGINT)",
        "import rephase.cluster.slurm.jobs",
        "assert signal.getsignal(signal.SIGINT) == before",
    ]
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True)
