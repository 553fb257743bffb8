"""The workflow: its job graph, what reruns what, a cut run, and the smoke suite to its end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from shutil import copytree

import pandas as pd
import pytest
import yaml
from workspace import ROOT, Workspace


def snakemake(workspace: Workspace, *arguments: str | Path) -> list[str]:
    script = Path(sys.executable).with_name("snakemake")
    return [str(script), "--nolock", *map(str, arguments)]


def run(workspace: Workspace, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        snakemake(workspace, *arguments),
        cwd=workspace.folder,
        env=workspace.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def succeed(workspace: Workspace, *arguments: str | Path) -> str:
    done = run(workspace, *arguments)
    assert done.returncode == 0, done.stdout[-5000:]
    return done.stdout


def jobs(output: str) -> dict[str, int]:
    """Read the table of job counts that a dry run prints."""
    table = output.split("Job stats:")[1].split("\n\n", maxsplit=1)[0].splitlines()[3:]
    return {line.split()[0]: int(line.split()[1]) for line in table if line.strip()}


def test_paper_suite_lists_all_jobs_without_torch(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/__init__.py").write_text("raise ImportError('a dry run needs no torch')")
    started = time.monotonic()
    done = subprocess.run(
        snakemake(workspace, "-n", "--configfile", "configs/suites/paper.yaml"),
        cwd=workspace.folder,
        env=workspace.environment(PYTHONPATH=str(tmp_path)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert time.monotonic() - started < 20
    counts = jobs(done.stdout)
    # 3 backbones x (original + 2 stages), on 4 test sets; DIV2K train and valid are prepared too.
    assert counts["train"] == 9
    assert counts["sweep"] == 3 * 2 * 4
    assert counts["prepare"] == 6
    assert counts["figure"] == 3 * 4
    assert counts["claims"] == counts["operating_points"] == 1
    for backbone in ("fsrcnn", "carn", "srresnet"):
        for stage in ("original train", "pcsr stage0", "pcsr stage1"):
            assert f"pcsr train {backbone}-{stage} --suite" in done.stdout


@pytest.mark.parametrize("profile", ["slurm", "smoke"])
def test_profiles(workspace: Workspace, profile: str) -> None:
    arguments = ("-n", "--workflow-profile", f"profiles/{profile}")
    suite = () if profile == "smoke" else ("--configfile", "configs/suites/paper.yaml")
    output = succeed(workspace, *arguments, *suite)
    assert jobs(output)["train"] == 9
    # On one machine one job has the GPU at a time; a cluster has no such limit.
    assert "Provided resources: gpu=1" not in output


def test_a_mistake_in_the_suite_is_one_clear_sentence(workspace: Workspace) -> None:
    path = workspace.suite("typo", train_set="embedded-trian")
    done = run(workspace, "-n", "--configfile", path)
    assert done.returncode != 0 and "Traceback" not in done.stdout
    assert "typo.yaml: train_set: unknown data set 'embedded-trian'" in done.stdout
    done = run(workspace, "-n", "--config", "knobs=3")
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
    assert counts["collect"] == counts["figure"] == counts["claims"] == counts["showcase"] == 1


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
        values["knobs"] = [0.0, 2.0]
        calm.write_text(yaml.safe_dump(values))
        counts = jobs(succeed(workspace, "-n", "--configfile", calm))
        assert "train" not in counts and counts["sweep"] == 2
    finally:
        calm.write_text(text)
    claims = workspace.path("configs/claims.yaml")
    claims.write_text(claims.read_text() + "# edited\n")
    counts = jobs(succeed(workspace, "-n", "--configfile", calm))
    assert counts["claims"] == 1 and "sweep" not in counts


def test_a_killed_study_ends_with_the_same_numbers(workspace: Workspace, calm: Path) -> None:
    path = tiny(workspace, "killed-study")
    results = workspace.path("results/killed-study")
    for part in ("fsrcnn-pcsr/stage0", "fsrcnn-pcsr/stage1"):
        process = workspace.start(snakemake(workspace, "--configfile", path))
        while process.poll() is None and not list((results / part).glob("state-*")):
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    succeed(workspace, "--configfile", path)
    ours = pd.read_csv(workspace.path("reports/killed-study/results.csv"))
    expected = pd.read_csv(workspace.path("reports/calm/results.csv"))
    ignored = ["suite", "seconds"]
    pd.testing.assert_frame_equal(ours.drop(columns=ignored), expected.drop(columns=ignored))


def test_jobs_that_outlive_snakemake_do_no_harm(workspace: Workspace, calm: Path) -> None:
    """Killed alone, Snakemake leaves its jobs running; the next run waits for them."""
    path = tiny(workspace, "orphans")
    process = workspace.start(snakemake(workspace, "--configfile", path))
    while process.poll() is None and not list(
        workspace.path("results/orphans").glob("*/*/state-*")
    ):
        time.sleep(0.01)
    process.kill()
    succeed(workspace, "--configfile", path)
    process.communicate()
    ours = pd.read_csv(workspace.path("reports/orphans/results.csv"))
    expected = pd.read_csv(workspace.path("reports/calm/results.csv"))
    ignored = ["suite", "seconds"]
    pd.testing.assert_frame_equal(ours.drop(columns=ignored), expected.drop(columns=ignored))


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


def test_smoke_suite(workspace: Workspace) -> None:
    started = time.monotonic()
    succeed(workspace, "--configfile", "configs/suites/smoke.yaml")
    assert time.monotonic() - started < 240
    report = workspace.path("reports/smoke")
    results = pd.read_csv(report / "results.csv")
    assert set(results.backbone) == {"fsrcnn", "carn", "srresnet"}
    assert set(results.method) == {"original", "pcsr"}
    for backbone in ("fsrcnn", "carn", "srresnet"):
        folder = report / "embedded-smoke"
        for name in ("psnr-flops", "pcsr-routing", "pcsr-comparison"):
            assert (folder / f"{backbone}-{name}.png").stat().st_size > 10_000
    claims = (report / "claims.md").read_text()
    assert claims.count("| not run |") >= 48
    table = (report / "operating_points.md").read_text()
    assert table.count("| original |") == 3


def test_schemas_are_those_of_the_models() -> None:
    from pcsr import config

    for name, text in config.schemas().items():
        assert (ROOT / "configs/schema" / name).read_text() == text, "run `pcsr schema`"
