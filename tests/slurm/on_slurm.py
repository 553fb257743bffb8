"""The smoke suite as SLURM jobs: interrupted trainings end with the bits of a local run.

``make test-slurm`` runs this in a cluster of one node that ``run.sh`` starts. ``make test`` leaves
it out: a file with this name is not collected.
"""

import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import psutil
import pytest
import torch
import yaml
from safetensors.torch import load_file
from workspace import Workspace, lines_of

SUITE = "configs/suites/smoke.yaml"
# As in the profile, but for a cluster without a database of jobs, and asked more often.
ON_SLURM = (
    *("--workflow-profile", "profiles/slurm", "--configfile", SUITE),
    *("--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "5"),
)
LOG_EVERY, STEPS, LINES_BEFORE_CUT = 10, 1000, 25


def told(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def kill_training(job: str) -> None:
    """Kill only the process itself, as the kernel does when memory runs out."""
    pids = re.findall(r"^\s*(\d+)", told("scontrol", "listpids", job), re.MULTILINE)
    for process in map(psutil.Process, map(int, pids)):
        if "pcsr" in [Path(word).name for word in process.cmdline()[:2]]:
            process.kill()


def cancel(job: str) -> None:
    """SIGTERM and, KillWait later, SIGKILL, as at the end of a job's time."""
    told("scancel", job)


def requeue(job: str) -> None:
    """Requeue as after preemption or a node failure: SLURM restarts the job under its number."""
    told("scontrol", "requeue", job)


class Cut(NamedTuple):
    """How a training is interrupted, the final state of its first job, and when it saves."""

    cut: Callable[[str], None]
    state: str
    save_every: int


# A training that is saved no sooner than at its end resumes only from what SIGTERM made it save.
CUTS = {
    "fsrcnn-original/train": Cut(kill_training, "FAILED", 100),
    "fsrcnn-arm/train": Cut(cancel, "CANCELLED", STEPS),
    "fsrcnn-pcsr/stage0": Cut(requeue, "COMPLETED", STEPS),
}


def prepared(folder: Path) -> Workspace:
    """A copy of the checkout whose smoke suite trains longer where it will be interrupted."""
    workspace = Workspace(folder)
    path = workspace.path(SUITE)
    values = yaml.safe_load(path.read_text())
    for training, cut in CUTS.items():
        experiment, stage = training.split("/")
        longer = {"iterations": STEPS, "save_every": cut.save_every, "validate_every": 500}
        values["overrides"][experiment] = {"stages": {stage: longer}}
    path.write_text(yaml.safe_dump(values))
    return workspace


def running_job(training: str) -> str | None:
    """Number of the job of a training, by the comment that the executor gives it."""
    listed = told("squeue", "--noheader", "--states=RUNNING", "--format=%i %k").splitlines()
    jobs = {comment: job for job, comment in map(str.split, listed)}
    return jobs.get(f"rule_train_wildcards_smoke_{training.replace('/', '_')}")


def facts_of(job: str) -> dict[str, str]:
    """What SLURM says of a job."""
    words = told("scontrol", "show", "job", job).split()
    return dict(word.split("=", maxsplit=1) for word in words if "=" in word)


@contextmanager
def on_slurm(workspace: Workspace, output: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The running workflow, stopped at the end of the test; its jobs stop with the cluster."""
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
            run.kill()
            run.wait()


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Run on this machine, undisturbed."""
    workspace = prepared(tmp_path_factory.mktemp("local"))
    done = workspace.snakemake("--configfile", SUITE)
    assert done.returncode == 0, done.stdout[-5000:]
    return workspace


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Run as SLURM jobs; one training is killed, one cancelled and one requeued."""
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
                CUTS[training].cut(job)
                jobs[training] = job
            time.sleep(0.1)
    assert run.returncode == 0, output.read_text()[-5000:]
    assert jobs.keys() == CUTS.keys()
    for training, job in jobs.items():
        facts = facts_of(job)
        restarts = int(CUTS[training].cut is requeue)
        assert (facts["JobState"], facts["Restarts"]) == (CUTS[training].state, str(restarts)), (
            facts
        )
    return workspace


@pytest.mark.parametrize("training", CUTS)
def test_a_training_that_is_cut_is_resumed(local: Workspace, cut: Workspace, training: str) -> None:
    log = cut.path(f"results/smoke/logs/train-{training.replace('/', '-')}.log").read_text()
    (resumed,) = map(int, re.findall("resuming from step ([0-9]+)", log))
    assert 0 < resumed < STEPS
    folder = f"results/smoke/{training}"
    losses = [[line["loss"] for line in w.journal(w.path(folder))] for w in (local, cut)]
    assert losses[0] == losses[1] and len(losses[0]) == STEPS // LOG_EVERY


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
    """Files of results and reports, but the states of training that a run happened to save."""
    folders = ("results/smoke", "reports/smoke")
    paths = [path for folder in folders for path in workspace.path(folder).rglob(pattern)]
    kept = [path for path in paths if not path.name.startswith(("state-", "previous-"))]
    return sorted(path.relative_to(workspace.folder).as_posix() for path in kept)
