"""The workflow: its job graph, what reruns what, interrupted runs, the smoke suite to its end."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from shutil import copytree

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from safetensors.torch import load_file
from workspace import ROOT, Workspace

from pcsr.report.figures import style
from pcsr.storage import files


def succeed(workspace: Workspace, *arguments: str | Path) -> str:
    done = workspace.snakemake(*arguments)
    assert done.returncode == 0, done.stdout[-5000:]
    return done.stdout


def jobs(output: str) -> dict[str, int]:
    """Read the table of job counts that a dry run prints."""
    table = output.split("Job stats:")[1].split("\n\n", maxsplit=1)[0].splitlines()[3:]
    return {line.split()[0]: int(line.split()[1]) for line in table if line.strip()}


def cpu_seconds() -> float:
    """Return the CPU time of finished child processes, which other work does not lengthen."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_paper_suite_lists_all_jobs_without_torch(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/__init__.py").write_text("raise ImportError('a dry run needs no torch')")
    started = cpu_seconds()
    done = subprocess.run(
        workspace.workflow("-n", "--configfile", "configs/suites/paper.yaml"),
        cwd=workspace.folder,
        env=workspace.environment(PYTHONPATH=str(tmp_path)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert cpu_seconds() - started < 20
    counts = jobs(done.stdout)
    # 3 backbones x 4 methods and 2 x ENAF, on 4 test sets; DIV2K train and valid are prepared too.
    stages = {
        "original": ["train"],
        "classsr": ["simple", "medium", "hard", "joint"],
        "arm": ["train"],
        "pcsr": ["stage0", "stage1"],
    }
    enaf = {
        (f"{backbone}-enaf", stage)
        for backbone in ("fsrcnn", "carn")
        for stage in ("network", "exits", "estimator")
    }
    assert counts["train"] == 3 * sum(map(len, stages.values())) + len(enaf)
    assert counts["classify_crops"] == 1
    assert counts["tabulate"] == 3
    assert counts["sweep"] == (3 * 4 + 2) * 4
    assert counts["prepare"] == 6
    assert counts["figure"] == 3 * 4
    assert counts["claims"] == counts["operating_points"] == 1
    trained = set(re.findall(r"pcsr train (\S+) (\S+) --suite", done.stdout))
    assert trained == enaf | {
        (f"{backbone}-{method}", stage)
        for backbone in ("fsrcnn", "carn", "srresnet")
        for method in stages
        for stage in stages[method]
    }
    # Three networks of each backbone train on their classes; a table is measured with, not without.
    assert done.stdout.count("--calibration results/paper/calibration/classes.safetensors") == 9
    assert (
        "pcsr classify-crops --weights results/paper/srresnet-original/train/weights" in done.stdout
    )
    assert "pcsr sweep --weights results/paper/carn-arm/table/weights.safetensors" in done.stdout


def test_the_suite_that_is_run_by_default(workspace: Workspace) -> None:
    output = succeed(workspace, "-n", "-p")
    counts = jobs(output)
    # FSRCNN and CARN by four methods each, with the weights that come with the suite.
    assert counts["sweep"] == 8 and counts["figure"] == 2
    assert counts["time"] == counts["summary"] == 1
    assert "pcsr sweep --weights weights/fsrcnn-arm.safetensors" in output
    assert not counts.keys() & {"train", "classify_crops", "tabulate"}


# Stages of four methods on three backbones, and of ENAF on two, or on one.
@pytest.mark.parametrize(("profile", "trainings"), [("slurm", 30), ("smoke", 27)])
def test_profiles(workspace: Workspace, profile: str, trainings: int) -> None:
    arguments = ("-n", "--workflow-profile", f"profiles/{profile}")
    suite = () if profile == "smoke" else ("--configfile", "configs/suites/paper.yaml")
    output = succeed(workspace, *arguments, *suite)
    assert jobs(output)["train"] == trainings
    # On one machine one job has the GPU at a time; a cluster has no such limit.
    assert "Provided resources: gpu=1" not in output


@pytest.mark.parametrize(
    ("age", "options", "said"),
    [
        ("300 sec", (), "write `slurm-status-command: squeue` into profiles/slurm/config.yaml"),
        ("60 sec", ("--slurm-status-command", "squeue"), "forgets a job 60 s after its end"),
        ("", (), "start the workflow where jobs can be submitted"),
    ],
)
def test_a_cluster_that_could_not_say_how_jobs_ended(
    workspace: Workspace, tmp_path: Path, age: str, options: tuple[str, ...], said: str
) -> None:
    """The executor would wait for ever; here SLURM's programs are scripts, without a database."""
    programs = {"sinfo": "exit 0", "squeue": "exit 1", "sacct": "exit 1", "sbatch": "touch proof"}
    programs["scontrol"] = f"echo 'MinJobAge               = {age}'" if age else "exit 1"
    for name, line in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{workspace.served()['PATH']}"
    how = ("--workflow-profile", "profiles/slurm", "--configfile", workspace.suite("cluster"))
    done = workspace.snakemake(*how, *options, PATH=path)
    assert done.returncode != 0 and "Traceback" not in done.stdout
    assert said in done.stdout and not workspace.path("proof").exists()


@pytest.mark.parametrize("there", [1, 2, 4])
def test_several_gpus_train_one_model(workspace: Workspace, there: int) -> None:
    path = workspace.suite("several", gpus=2)
    output = succeed(workspace, "-n", "-p", "--resources", f"gpu={there}", "--configfile", path)
    commands = [line for line in output.splitlines() if line.startswith("Shell command:")]
    training = [line for line in commands if "pcsr train" in line]
    assert len(training) == jobs(output)["train"] > 0
    together = f"--device cuda --processes {min(there, 2)} "
    assert all(together in line for line in training)
    # All else is done on one GPU.
    assert sum("--processes" in line for line in commands) == len(training)
    assert output.count("gpu=2") == (len(training) + (there == 2) if there > 1 else 0)


def test_a_mistake_in_the_suite_is_one_clear_sentence(workspace: Workspace) -> None:
    path = workspace.suite("typo", train_set="embedded-trian")
    done = workspace.snakemake("-n", "--configfile", path)
    assert done.returncode != 0 and "Traceback" not in done.stdout
    assert "typo.yaml: train_set: unknown data set 'embedded-trian'" in done.stdout
    done = workspace.snakemake("-n", "--config", "knobs=3")
    assert done.returncode != 0 and "put the changes into a suite file" in done.stdout


def tiny(workspace: Workspace, name: str) -> Path:
    stage = {"iterations": 60, "batch": 2, "patch": 8, "log_every": 1, "save_every": 5}
    return workspace.suite(
        name,
        experiments=["fsrcnn-original", "fsrcnn-pcsr"],
        overrides={"*": {"stages": {"*": stage}}},
    )


@pytest.fixture(scope="module")
def calm(workspace: Workspace) -> Path:
    """A tiny study, run undisturbed; its suite file."""
    path = tiny(workspace, "calm")
    succeed(workspace, "--configfile", path)
    return path


def test_a_report_that_came_with_a_clone_does_not_stand_for_results(
    workspace: Workspace, calm: Path, tmp_path: Path
) -> None:
    clone = Workspace(tmp_path)
    copytree(workspace.path("reports/calm"), clone.path("reports/calm"))
    counts = jobs(succeed(clone, "-n", "--configfile", tiny(clone, "calm")))
    assert counts["train"] == 3 and counts["sweep"] == 2 and counts["prepare"] == 1
    assert counts["collect"] == counts["figure"] == counts["showcase"] == 1
    assert "claims" not in counts  # nothing is published of these photographs


def test_nothing_is_done_twice(workspace: Workspace, calm: Path) -> None:
    assert "Nothing to be done" in succeed(workspace, "-n", "--configfile", calm)
    text = calm.read_text()
    try:
        calm.write_text("# a comment\n" + text)
        assert "Nothing to be done" in succeed(workspace, "-n", "--configfile", calm)
        values = yaml.safe_load(text)
        values["overrides"]["fsrcnn-pcsr"] = {"stages": {"stage1": {"learning_rate": 0.01}}}
        calm.write_text(yaml.safe_dump(values))
        counts = jobs(succeed(workspace, "-n", "--configfile", calm))
        assert counts["train"] == 1 and counts["sweep"] == 1 and "prepare" not in counts
        values["overrides"]["fsrcnn-pcsr"] = {"stages": {"stage1": {"save_every": 7}}}
        values["valid_images"] = 3
        calm.write_text(yaml.safe_dump(values))
        assert "Nothing to be done" in succeed(workspace, "-n", "--configfile", calm)
        values["overrides"].pop("fsrcnn-pcsr")
        values["knobs"] = {"pcsr": [0.0, 2.0]}  # the original has none
        calm.write_text(yaml.safe_dump(values))
        counts = jobs(succeed(workspace, "-n", "--configfile", calm))
        assert "train" not in counts and counts["sweep"] == 1
        values["protocols"] = [{}, {"lr": "float"}]
        calm.write_text(yaml.safe_dump(values))
        counts = jobs(succeed(workspace, "-n", "--configfile", calm))
        assert "train" not in counts and counts["sweep"] == 2
    finally:
        calm.write_text(text)
    claims = workspace.path("configs/claims.yaml")
    text = claims.read_text()
    published = yaml.safe_load(text)
    published["images"]["embedded-smoke"] = 2
    published["models"][0]["cells"]["embedded-smoke"] = [25.0, 1.0]
    try:
        claims.write_text(yaml.safe_dump(published))
        counts = jobs(succeed(workspace, "-n", "--configfile", calm))
        assert counts["claims"] == 1 and "sweep" not in counts
    finally:
        claims.write_text(text)


def test_images_of_another_processor_stay(workspace: Workspace, calm: Path) -> None:
    """The report is as it was, where an image agrees to one grey level."""
    images = list(workspace.path("reports/calm").glob("*/fsrcnn-pcsr-*.png"))
    assert len(images) == 2
    for path in images:
        with Image.open(path) as image:
            changed = np.asarray(image) ^ 1
        Image.fromarray(changed).save(path)
    before = [path.read_bytes() for path in images]
    succeed(workspace, "--forcerun", "showcase", "--configfile", calm)
    assert [path.read_bytes() for path in images] == before


def pretend(workspace: Workspace, path: Path) -> None:
    """Let Snakemake believe that a suite was run: empty files in place of all results."""
    listed = succeed(workspace, "-n", "--configfile", path)
    for outputs in re.findall(r"^    output: (.*)$", listed, re.MULTILINE):
        for output in map(workspace.path, outputs.split(", ")):
            output.parent.mkdir(parents=True, exist_ok=True)
            output.touch()
    succeed(workspace, "--touch", "--forceall", "--configfile", path)


def test_other_classes_or_knobs_rerun_what_depends_on_them(workspace: Workspace) -> None:
    experiments = ["fsrcnn-original", "carn-original", "fsrcnn-classsr", "fsrcnn-arm"]

    def write(**changes: object) -> Path:
        calibration = {"experiment": "fsrcnn-original", "patch": 8}
        values = {"calibration": calibration, **changes}
        return workspace.suite("pretended", experiments=experiments, **values)

    def rerun() -> set[tuple[str, str]]:
        """Experiments and stages, or test sets, that would be run again."""
        output = succeed(workspace, "-n", "--configfile", path)
        pattern = r"wildcards: .*experiment=([^,\n]+), (?:stage|test_set)=([^,\n]+)"
        return set(re.findall(pattern, output))

    path = write()
    pretend(workspace, path)
    chain = {("fsrcnn-classsr", s) for s in ("simple", "medium", "hard", "joint", "embedded-smoke")}
    write(calibration={"experiment": "carn-original", "patch": 8})
    assert rerun() == chain
    more = {"experiment": "fsrcnn-original", "patch": 8, "classes": 4}
    write(calibration=more, knobs={"arm": [1, 3]})
    assert rerun() == chain | {("fsrcnn-arm", "embedded-smoke")}


def test_a_killed_study_ends_with_the_same_numbers(workspace: Workspace, calm: Path) -> None:
    path = tiny(workspace, "killed-study")
    results = workspace.path("results/killed-study")
    for part in ("fsrcnn-pcsr/stage0", "fsrcnn-pcsr/stage1"):
        process = workspace.start(workspace.workflow("--configfile", path))
        while process.poll() is None and not list((results / part).glob("state-*")):
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    succeed(workspace, "--configfile", path)
    ours = pd.read_csv(workspace.path("reports/killed-study/results.csv"))
    expected = pd.read_csv(workspace.path("reports/calm/results.csv"))
    pd.testing.assert_frame_equal(ours.drop(columns="suite"), expected.drop(columns="suite"))


def test_one_run_at_a_time_in_a_folder(workspace: Workspace) -> None:
    path = workspace.suite("second", experiments=["fsrcnn-original"])
    with files.locked(workspace.path(".snakemake/workflow")):
        done = workspace.snakemake("--configfile", path)
        assert done.returncode != 0 and "Traceback" not in done.stdout
        assert f"process {os.getpid()} on " in done.stdout
        assert "is running the workflow in this folder; wait until it is done." in done.stdout
        assert not workspace.path("results/second").exists()  # no job was started
        assert jobs(succeed(workspace, "-n", "--configfile", path))["train"] == 1
    # Snakemake's own lock would stay behind after a kill.
    for profile in workspace.path("profiles").glob("*/config.yaml"):
        assert yaml.safe_load(profile.read_text())["nolock"] is True


def test_jobs_that_outlive_snakemake_do_no_harm(workspace: Workspace, calm: Path) -> None:
    """Killed alone, Snakemake leaves its jobs running; the next run waits for them."""
    path = tiny(workspace, "orphans")
    process = workspace.start(workspace.workflow("--configfile", path))
    while process.poll() is None and not list(
        workspace.path("results/orphans").glob("*/*/state-*")
    ):
        time.sleep(0.01)
    process.kill()
    succeed(workspace, "--configfile", path)
    process.communicate()
    ours = pd.read_csv(workspace.path("reports/orphans/results.csv"))
    expected = pd.read_csv(workspace.path("reports/calm/results.csv"))
    pd.testing.assert_frame_equal(ours.drop(columns="suite"), expected.drop(columns="suite"))


def test_one_data_set_prepared_twice_at_once(workspace: Workspace) -> None:
    runs = [workspace.start(workspace.command("prepare", "embedded-valid")) for _ in range(3)]
    outputs = [run.communicate()[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0], outputs
    assert sum("already prepared" in output for output in outputs) == 2
    assert workspace.path("data/prepared/embedded-valid/manifest.json").exists()


def test_html_report_is_one_offline_file(workspace: Workspace, calm: Path) -> None:
    page = workspace.path("reports/calm/report.html")
    succeed(workspace, "--configfile", calm, "--report", page)
    text = page.read_text(encoding="utf-8")
    assert "operating_points" in text and "fsrcnn-psnr-flops.png" in text
    assert 'src="http' not in text and 'rel="stylesheet" href="http' not in text


def computed(run: Callable[[], object]) -> float:
    """Return the seconds that the processes which ``run`` starts and waits for compute."""
    before = os.times()
    run()
    after = os.times()
    spent = zip(after[2:4], before[2:4], strict=True)  # children's, user and system
    return sum(now - then for now, then in spent)


def test_smoke_suite(workspace: Workspace) -> None:
    start = (sys.executable, "-c", "import torch")
    one = computed(lambda: subprocess.run(start, check=True))
    all_jobs = computed(lambda: succeed(workspace, "--configfile", "configs/suites/smoke.yaml"))
    one = (one + computed(lambda: subprocess.run(start, check=True))) / 2
    # Four minutes on two cores that start torch in 1.5 s; slower ones may take longer.
    assert all_jobs / one < 2 * 240 / 1.5
    report = workspace.path("reports/smoke")
    results = pd.read_csv(report / "results.csv")
    backbones, methods = ("fsrcnn", "carn", "srresnet"), ("classsr", "arm", "pcsr")
    measured = set(zip(results.backbone, results.method, strict=True))
    assert measured == {*product(backbones, ("original", *methods)), ("fsrcnn", "enaf")}
    assert set(results.lr) == {"8bit", "float"}
    assert set(results[~results.refine].method) == {"pcsr"}  # the others refine nothing
    for backbone in backbones:
        folder = report / "embedded-smoke"
        images = [f"{m}-{kind}" for m in methods for kind in ("routing", "comparison")]
        for name in ("psnr-flops", *images):
            assert (folder / f"{backbone}-{name}.png").stat().st_size > 10_000
        curves = (folder / f"{backbone}-psnr-flops.svg").read_text()  # has its texts as comments
        assert all(curves.count(f"<!-- {style.name(method)} (") == 1 for method in methods)
    assert not list(report.glob("claims.*"))  # nothing is published of these photographs
    table = (report / "operating_points.md").read_text()
    assert table.count("| original |") == 3
    knobs = {"classsr": {-25, 0, 25}, "arm": {0, 1, 4}, "enaf": {0, 0.5, 5}}
    for method, expected in knobs.items():
        assert set(results[results.method == method].knob) == expected
    # Tables of three trained networks, made after the training from the validation images.
    for backbone in backbones:
        steps = workspace.path(f"results/smoke/{backbone}-arm")
        before, after = (load_file(steps / f"{s}/weights.safetensors") for s in ("train", "table"))
        changed = {name for name in before if not before[name].equal(after[name])}
        assert before.keys() == after.keys() and changed == {"edges", "psnr"}
    # Crops in classes of equal size by the PSNR of SRResNet.
    sidecar = workspace.path("results/smoke/calibration/classes.json").read_text()
    facts = json.loads(sidecar)
    assert np.ptp(facts["counts"]) <= 1 and facts["cuts_db"] == sorted(facts["cuts_db"])
    assert facts["model"]["backbone"] == "srresnet"


def test_schemas_are_those_of_the_models() -> None:
    from pcsr.config.load import schemas

    for name, text in schemas().items():
        assert (ROOT / "configs/schema" / name).read_text() == text, "run `pcsr schema`"
