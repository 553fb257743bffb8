"""Training through the command line: exact resume, several processes, stages."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from models import saved
from safetensors.torch import load_file
from workspace import Workspace, lines_of

from pcsr import registry
from pcsr.config.models import ModelConfig
from pcsr.config.options import THREADS
from pcsr.data.batches import Crops
from pcsr.data.store import Store
from pcsr.storage import files
from pcsr.weights import checkpoint

STAGE0 = ("train", "fsrcnn-pcsr", "stage0", "--device", "cpu")


def same_weights(a: Path, b: Path) -> bool:
    one, other = load_file(a), load_file(b)
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@pytest.fixture(scope="module")
def undisturbed(workspace: Workspace) -> Path:
    """Stage 0 trained in one go."""
    suite = workspace.suite("undisturbed")
    out = workspace.path("undisturbed/stage0/weights.safetensors")
    workspace.succeed(*STAGE0, "--suite", suite, "--out", out)
    return out


def test_a_killed_run_ends_with_the_same_bits(workspace: Workspace, undisturbed: Path) -> None:
    suite = workspace.suite("killed")
    out = workspace.path("killed/stage0/weights.safetensors")
    command = workspace.command(*STAGE0, "--suite", suite, "--out", out)
    kills = 0
    # Steps at which the run is killed, other ones each time: each is a line of the log.
    for lines in sorted(random.sample(range(6, 21), 3)):
        run = workspace.start(command)
        wait_for_lines(run, out, lines)
        os.killpg(run.pid, signal.SIGKILL)
        run.communicate()
        kills += run.returncode == -signal.SIGKILL
    assert kills == 3
    assert not out.exists()
    # Killed while it wrote a state, the run has only the one before.
    assert list(out.parent.glob("state-*")) or list(out.parent.glob("previous-*"))
    output = workspace.succeed(*STAGE0, "--suite", suite, "--out", out)
    assert "resuming from step" in output
    assert same_weights(out, undisturbed)
    losses = [(line["step"], line["loss"]) for line in workspace.journal(out.parent)]
    expected = [(line["step"], line["loss"]) for line in workspace.journal(undisturbed.parent)]
    assert losses == expected
    assert [step for step, _ in losses] == list(range(1, 31))
    assert not list(out.parent.glob(".*"))


def wait_for_lines(run: subprocess.Popen[str], out: Path, lines: int) -> None:
    """Wait until a training has logged so many lines, or has ended."""
    while run.poll() is None and lines_of(out.parent) < lines:
        time.sleep(0.005)


@pytest.mark.parametrize(
    ("number", "status", "told"),
    [
        (signal.SIGTERM, 2, "error: .*: stopped at step .*; run again to resume from there"),
        (
            signal.SIGINT,
            130,
            "\ninterrupted: .*: stopped at step .*; run the same command to resume",
        ),
    ],
    ids=["SIGTERM", "SIGINT"],
)
def test_a_stopped_run_saves_and_resumes(
    workspace: Workspace, undisturbed: Path, number: int, status: int, told: str
) -> None:
    suite = workspace.suite("stopped")
    out = workspace.path(f"stopped/{number}/weights.safetensors")
    run = workspace.start(workspace.command(*STAGE0, "--suite", suite, "--out", out))
    wait_for_lines(run, out, 12)
    run.send_signal(number)
    output, _ = run.communicate(timeout=60)
    assert run.returncode == status
    assert re.search(told, output) and "Traceback" not in output
    workspace.succeed(*STAGE0, "--suite", suite, "--out", out)
    assert same_weights(out, undisturbed)


def two_processes(
    workspace: Workspace, name: str, steps: int
) -> tuple[subprocess.Popen[str], Path]:
    """A training by two processes that has logged step 50, and its weights file."""
    stage = {"iterations": steps, "batch": 2, "patch": 8, "log_every": 25, "save_every": steps}
    suite = workspace.suite(name, overrides={"*": {"stages": {"*": stage}}})
    out = workspace.path(f"{name}/weights.safetensors")
    command = workspace.command(*STAGE0, "--suite", suite, "--out", out, "--processes", "2")
    run = workspace.start(command, OMP_NUM_THREADS="1")
    wait_for_lines(run, out, 2)
    return run, out


def require_saved(output: str, out: Path) -> None:
    """Both processes stopped at the same step, that of the only state."""
    (stopped,) = set(re.findall(r"stopped at step (\d+)", output))
    (state,) = out.parent.glob("state-*.safetensors")
    assert checkpoint.load(state)[1]["step"] == int(stopped) >= 50


def test_processes_that_are_stopped_save_together(workspace: Workspace) -> None:
    """As SLURM and terminals do it: all get the signal, and once more from torchrun."""
    run, out = two_processes(workspace, "stopped-two", 2000)
    os.killpg(run.pid, signal.SIGINT)
    output, _ = run.communicate(timeout=100)  # less than torchrun waits before it kills
    assert run.returncode == 130 and "Traceback" not in output
    require_saved(output, out)


def test_processes_whose_launcher_is_killed_save_and_end(workspace: Workspace) -> None:
    run, out = two_processes(workspace, "orphans-two", 20_000)
    run.kill()
    output, _ = run.communicate(timeout=60)  # to the end of the processes, which share its output
    require_saved(output, out)
    with files.locked(out, wait=False):
        pass


def test_a_finished_run_only_writes_its_weights_again(
    workspace: Workspace, undisturbed: Path
) -> None:
    """Whether they are still there or not."""
    copy = undisturbed.with_name("copy")
    copy.write_bytes(undisturbed.read_bytes())
    suite = workspace.suite("undisturbed")
    for removed in (False, True):
        before = undisturbed.stat().st_mtime_ns
        if removed:
            undisturbed.unlink()
        output = workspace.succeed(*STAGE0, "--suite", suite, "--out", undisturbed)
        assert "steps 30 to 30" in output
        assert undisturbed.stat().st_mtime_ns > before
        assert same_weights(undisturbed, copy)


def test_an_old_state_is_not_resumed_from_other_initial_weights(
    workspace: Workspace, undisturbed: Path
) -> None:
    """An interrupted stage starts over when the stage before it was trained again."""
    suite = workspace.suite("other-init")
    out = workspace.path("other-init/weights.safetensors")
    stage1 = ("train", "fsrcnn-pcsr", "stage1", "--device", "cpu", "--suite", suite, "--out", out)
    workspace.succeed(*stage1, "--init", undisturbed)
    tensors, facts = checkpoint.load(undisturbed)
    tensors["encoder.extract.0.bias"] += 0.25
    changed = workspace.path("other-init/changed.safetensors")
    checkpoint.save(changed, tensors, facts)
    output = workspace.succeed(*stage1, "--init", changed)
    assert "steps 0 to 30" in output
    assert torch.equal(load_file(out)["encoder.extract.0.bias"], tensors["encoder.extract.0.bias"])


# Options that a stage needs besides its suite and output.
Options = dict[str, list[str | Path]]


@pytest.fixture(scope="module")
def options(workspace: Workspace, undisturbed: Path) -> Options:
    folder = workspace.path("given")
    networks = registry.build(ModelConfig(backbone="fsrcnn", method="classsr"))
    hard = saved(networks, folder / "hard/weights.safetensors")
    store = Store.open(workspace.path("data/prepared/embedded-smoke"))
    crops = torch.arange(len(Crops(store, 32, torch.device("cpu"))))
    facts = {"data": store.digest, "crop": 32}
    checkpoint.save(folder / "classes.safetensors", {"class": crops % 3}, facts)
    return {
        "train": [],
        "stage0": [],
        "stage1": ["--init", undisturbed],
        "simple": ["--calibration", folder / "classes.safetensors"],
        "joint": ["--init", hard],
    }


def suite_with(workspace: Workspace, name: str, experiment: str) -> Path:
    """A suite of one experiment, and the original that could sort its crops."""
    both = sorted({experiment, "fsrcnn-original"})
    calibration = {"experiment": "fsrcnn-original", "patch": 8}
    return workspace.suite(name, experiments=both, calibration=calibration)


@pytest.mark.parametrize(
    ("experiment", "stage"),
    [
        ("carn-original", "train"),  # BatchNorm's statistics
        ("fsrcnn-pcsr", "stage1"),  # a later stage
        ("fsrcnn-classsr", "simple"),  # some of the crops
        ("fsrcnn-arm", "train"),  # chance in the loss
    ],
)
def test_stages_of_all_kinds_resume_to_the_bit(
    workspace: Workspace, options: Options, experiment: str, stage: str
) -> None:
    outs = []
    for name in ("whole", "cut"):
        suite = suite_with(workspace, f"{name}-{experiment}", experiment)
        out = workspace.path(f"{name}-{experiment}/weights.safetensors")
        verb = ("train", experiment, stage, "--device", "cpu", "--suite", suite, "--out", out)
        if name == "cut":
            run = workspace.start(workspace.command(*verb, *options[stage]))
            wait_for_lines(run, out, 12)
            os.killpg(run.pid, signal.SIGKILL)
            run.communicate()
            assert not out.exists()
        output = workspace.succeed(*verb, *options[stage])
        assert ("resuming from step" in output) == (name == "cut")
        outs.append(out)
    assert same_weights(*outs)


@pytest.mark.parametrize(
    ("experiment", "stage"),
    [
        ("fsrcnn-pcsr", "stage0"),
        ("fsrcnn-pcsr", "stage1"),
        ("fsrcnn-classsr", "joint"),
        ("fsrcnn-arm", "train"),
    ],
)
def test_two_processes_give_the_loss_curve_of_one(
    workspace: Workspace, options: Options, experiment: str, stage: str
) -> None:
    curves = []
    for processes in (1, 2):
        suite = suite_with(workspace, f"processes-{processes}", experiment)
        out = workspace.path(f"processes-{processes}/{experiment}/{stage}/weights.safetensors")
        verb = ["train", experiment, stage, "--device", "cpu", "--suite", suite, "--out", out]
        verb += ["--processes", str(processes)]
        workspace.succeed(*verb, *options[stage], OMP_NUM_THREADS="1")
        curves.append([line["loss"] for line in workspace.journal(out.parent)])
    assert len(curves[0]) == 30
    assert curves[0][0] != pytest.approx(curves[0][-1], rel=0.01)  # it does learn
    assert curves[1] == pytest.approx(curves[0], rel=1e-4)


def test_a_batch_that_cannot_be_shared_is_refused(workspace: Workspace) -> None:
    suite = workspace.suite("uneven", overrides={"*": {"stages": {"*": {"batch": 3}}}})
    out = workspace.path("uneven/stage0/weights.safetensors")
    done = workspace.pcsr(*STAGE0, "--suite", suite, "--out", out, "--processes", "2")
    assert done.returncode != 0
    assert "batch 3 cannot be shared evenly by 2 processes" in done.stderr
    assert not out.exists()


def test_stages_follow_each_other(workspace: Workspace, undisturbed: Path) -> None:
    suite = workspace.suite("undisturbed")
    out = workspace.path("stages/weights.safetensors")
    stage1 = ("train", "fsrcnn-pcsr", "stage1", "--device", "cpu", "--suite", suite, "--out", out)
    assert "starts from stage 'stage0': give its weights as --init" in workspace.refuse(*stage1)
    message = workspace.refuse(*STAGE0, "--suite", suite, "--out", out, "--init", undisturbed)
    assert "stage 'stage0' starts afresh" in message
    workspace.succeed(*stage1, "--init", undisturbed)
    before, after = load_file(undisturbed), load_file(out)
    frozen = [name for name in before if name.startswith(("encoder.", "heads.1."))]
    assert frozen and all(torch.equal(before[name], after[name]) for name in frozen)
    assert not torch.equal(before["classifier.0.weight"], after["classifier.0.weight"])


def test_an_experiment_starts_from_the_network_of_another(workspace: Workspace) -> None:
    """And keeps what its stage freezes: SPAN's encoder, which comes without its tail."""
    suite = workspace.suite("init", experiments=["span-original", "span-pcsr"])
    network = registry.build(ModelConfig(backbone="span", method="original"))
    original = saved(network, workspace.path("init/original.safetensors"))
    out = workspace.path("init/weights.safetensors")
    stage0 = ("train", "span-pcsr", "stage0", "--device", "cpu", "--suite", suite, "--out", out)
    assert "starts from span-original: give its weights as --init" in workspace.refuse(*stage0)
    workspace.succeed(*stage0, "--init", original)
    before, after = load_file(original), load_file(out)
    encoder = {name: t for name, t in after.items() if name.startswith("encoder.")}
    assert encoder
    for name, tensor in encoder.items():
        assert torch.equal(tensor, before[name.replace("encoder", "network", 1)])


def test_a_loss_that_is_not_finite_stops_the_run(workspace: Workspace) -> None:
    stages = {
        "*": {"iterations": 30, "batch": 2, "patch": 8, "log_every": 1, "learning_rate": 1e30}
    }
    suite = workspace.suite("diverges", overrides={"*": {"stages": stages}})
    out = workspace.path("diverges/weights.safetensors")
    message = workspace.refuse(*STAGE0, "--suite", suite, "--out", out)
    assert "the loss is" in message and "lower learning_rate of stage 'stage0'" in message
    assert not out.exists()


def test_training_speed_is_measured_once(workspace: Workspace) -> None:
    suite = workspace.suite("speed", experiments=["fsrcnn-original", "fsrcnn-pcsr"])
    out = workspace.path("speed/cpu.json")
    data = workspace.path("data/prepared/embedded-smoke")
    quickly = ("--seconds", "0.01", "--rounds", "1", "--workers", "1", "--data", data)
    command = (
        "training-speed",
        "fsrcnn-pcsr",
        "--suite",
        suite,
        "--out",
        out,
        *quickly,
        "--device",
        "cpu",
    )
    assert "fsrcnn-pcsr stage1, suite" in workspace.succeed(*command)
    assert "steps/s" not in workspace.succeed(*command)
    rows = json.loads(out.read_text())["rows"]
    assert [(row["stage"], row["way"]) for row in rows] == [
        (stage, way) for stage in ("stage0", "stage1") for way in ("reference", "suite")
    ]
    assert "| fsrcnn-pcsr | stage1 |" in out.with_suffix(".md").read_text()
    assert "unknown way 'suit'" in workspace.refuse(*command, "--way", "suit")
    message = workspace.refuse(*command, "--threads", str(THREADS + 1))
    assert "was measured with threads" in message and "another file as --out" in message
    out = workspace.path("speed/script.json")
    script = Path(__file__).parents[2] / "benchmarks/gpu/training.py"
    how = ["--device", "cpu", "--suite", suite, "--data", data, "--out", out, "--turn", "0.01"]
    which = ["--experiments", "fsrcnn-pcsr", "fsrcnn-original", "--ways", "reference", "suite"]
    arguments = [sys.executable, script, *how, *which]
    subprocess.run(arguments, env=workspace.environment(), cwd=workspace.folder, check=True)
    models = [row["experiment"] for row in json.loads(out.read_text())["rows"]]
    assert models == ["fsrcnn-pcsr"] * 4 + ["fsrcnn-original"] * 2
