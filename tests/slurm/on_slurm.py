"""The smoke suite as SLURM jobs: trainings that are cut end with the bits of a calm local run.

``make test-slurm`` runs this in a cluster of one node that ``run.sh`` starts; ``make test`` does not,
because of the file's name.
"""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file
from workspace import Workspace

SUITE = "configs/suites/smoke.yaml"
# The options after the profile are for this cluster, which has no database of jobs, and where a job
# cannot have the 32 GB of the profile.
ON_SLURM = (
    *("--workflow-profile", "profiles/slurm", "--configfile", SUITE),
    *("--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "5"),
    *("--default-resources", "runtime=60", "mem_mb=2000", "nodes=1"),
)
# What cuts a training, what SLURM calls it then, and who starts it again.
CUTS = {
    # Killed, as by the kernel when memory runs out: Snakemake.
    "fsrcnn-original/train": (("scancel", "--signal=KILL", "--full"), "FAILED"),
    # SIGTERM and, KillWait later, SIGKILL, as at the end of its time: Snakemake.
    "fsrcnn-arm/train": (("scancel",), "CANCELLED"),
    # As preemption and a failed node do it: SLURM itself, the job keeps its number.
    "fsrcnn-pcsr/stage0": (("scontrol", "requeue"), "COMPLETED"),
}
# Long enough to be cut between two saved states.
LOG_EVERY, SAVE_EVERY, LINES_BEFORE_CUT = 10, 100, 25
LONGER = {"iterations": 2000, "save_every": SAVE_EVERY, "validate_every": 500}


def prepared(folder: Path) -> Workspace:
    """A copy of the checkout whose smoke suite trains longer what is to be cut."""
    workspace = Workspace(folder)
    path = workspace.path(SUITE)
    values = yaml.safe_load(path.read_text())
    for experiment, stage in (training.split("/") for training in CUTS):
        values["overrides"][experiment] = {"stages": {stage: LONGER}}
    path.write_text(yaml.safe_dump(values))
    return workspace


def lines_of(folder: Path) -> int:
    return sum(path.read_text().count("\n") for path in folder.glob("train-*.jsonl"))


def running_job(training: str) -> str | None:
    """Number of the job of a training, by the comment that the executor gives it."""
    squeue = ("squeue", "--noheader", "--states=RUNNING", "--format=%i %k")
    listed = subprocess.run(squeue, capture_output=True, text=True, check=True).stdout
    jobs = {comment: job for job, comment in map(str.split, listed.splitlines())}
    return jobs.get(f"rule_train_wildcards_smoke_{training.replace('/', '_')}")


def shown(job: str) -> dict[str, str]:
    """What SLURM says of a job."""
    told = subprocess.run(
        ("scontrol", "show", "job", job), capture_output=True, text=True, check=True
    )
    return dict(word.split("=", maxsplit=1) for word in told.stdout.split() if "=" in word)


@contextmanager
def on_slurm(workspace: Workspace, output: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The workflow, which is told to end, and cancels its jobs then, if the test ends before it."""
    with output.open("wb") as stream:
        run = subprocess.Popen(
            workspace.workflow(*ON_SLURM),
            cwd=workspace.folder,
            env=workspace.environment(),
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
        try:
            yield run
        finally:
            if run.poll() is None:
                run.terminate()
                run.wait(timeout=120)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Run on this machine, undisturbed."""
    workspace = prepared(tmp_path_factory.mktemp("local"))
    done = workspace.snakemake("--configfile", SUITE)
    assert done.returncode == 0, done.stdout[-5000:]
    return workspace


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Run as SLURM jobs, of which one is killed, one cancelled and one requeued."""
    workspace = prepared(tmp_path_factory.mktemp("cut"))
    output = workspace.path("output.txt")
    jobs: dict[str, str] = {}
    with on_slurm(workspace, output) as run:
        while run.poll() is None:
            for training in CUTS.keys() - jobs.keys():
                if lines_of(workspace.path(f"results/smoke/{training}")) < LINES_BEFORE_CUT:
                    continue
                job = running_job(training)
                assert job is not None, f"{training} had ended before it could be cut"
                subprocess.run([*CUTS[training][0], job], check=True)
                jobs[training] = job
            time.sleep(0.1)
    assert run.returncode == 0, output.read_text()[-5000:]
    assert jobs.keys() == CUTS.keys()
    for training, job in jobs.items():
        ended = shown(job)
        assert ended["JobState"] == CUTS[training][1], (training, ended)
        assert (ended["Restarts"] == "1") == (ended["JobState"] == "COMPLETED"), (training, ended)
    return workspace


@pytest.mark.parametrize("training", CUTS)
def test_a_training_that_is_cut_is_resumed(local: Workspace, cut: Workspace, training: str) -> None:
    log = cut.path(f"results/smoke/logs/train-{training.replace('/', '-')}.log").read_text()
    resumed = int(log.rsplit("resuming from step ", maxsplit=1)[1].split()[0].rstrip(".,;"))
    assert SAVE_EVERY <= resumed < LONGER["iterations"]
    folder = f"results/smoke/{training}"
    losses = [[line["loss"] for line in w.journal(w.path(folder))] for w in (local, cut)]
    assert losses[0] == losses[1] and len(losses[0]) == LONGER["iterations"] // LOG_EVERY


def test_all_weights_are_those_of_the_local_run(local: Workspace, cut: Workspace) -> None:
    names = made(local, "*.safetensors")
    assert names == made(cut, "*.safetensors") and len(names) > 24
    for name in names:
        one, other = (load_file(workspace.path(name)) for workspace in (local, cut))
        assert one.keys() == other.keys(), name
        assert all(torch.equal(one[key], other[key]) for key in one), name


def test_all_measurements_are_those_of_the_local_run(local: Workspace, cut: Workspace) -> None:
    names = made(local, "*.csv")
    assert names == made(cut, "*.csv") and len(names) > 12
    for name in names:
        tables = [pd.read_csv(workspace.path(name)) for workspace in (local, cut)]
        one, other = (table.drop(columns="seconds", errors="ignore") for table in tables)
        pd.testing.assert_frame_equal(one, other, check_exact=True, obj=name)


def made(workspace: Workspace, pattern: str) -> list[str]:
    """Files of results and reports, but states of training, which are named after their step."""
    folders = ("results/smoke", "reports/smoke")
    paths = [path for folder in folders for path in workspace.path(folder).rglob(pattern)]
    names = [path.relative_to(workspace.folder).as_posix() for path in paths]
    return sorted(name for name in names if "/state-" not in name)
