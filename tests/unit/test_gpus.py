"""GPUs are taken by one process at a time, for as long as it lives."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pcsr import distributed, runtime
from pcsr.errors import UserError

TAKE = """
import sys
import tempfile
from pcsr import runtime
tempfile.tempdir = sys.argv[1]
print(*runtime.claim(sys.argv[2:]), flush=True)
input()
"""


@pytest.fixture(autouse=True)
def temporary_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@contextmanager
def another(folder: Path, *names: str) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """Another process that takes a GPU, and the one that it got."""
    command = [sys.executable, "-c", TAKE, str(folder), *names]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline()), process
        process.kill()


def test_every_process_gets_another_gpu(tmp_path: Path) -> None:
    names = ["a", "b", "c"]
    with another(tmp_path, *names) as (first, _), another(tmp_path, *names) as (second, _):
        assert (first, second) == (0, 1)
        assert runtime.claim(names) == [2]
        # Whoever sees other GPUs, in another order, names them alike.
        assert runtime.claim(["b", "c"]) == [1]


def test_a_process_does_not_wait_for_itself(tmp_path: Path) -> None:
    assert [runtime.claim(["mine"]) for _ in range(2)] == [[0], [0]]


def test_a_gpu_is_waited_for_until_its_process_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with another(tmp_path, "only") as (_, process):

        def sleep(seconds: float) -> None:
            assert seconds == runtime.GPU_WAIT
            process.kill()
            process.wait()

        monkeypatch.setattr(runtime.time, "sleep", sleep)
        assert runtime.claim(["only"]) == [0]
    (line,) = caplog.messages
    assert line.startswith("waiting for 1 of 1 GPUs, which other runs of the suite have")


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    named = [SimpleNamespace(uuid=f"{tmp_path.name}-{number}") for number in range(3)]
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: named[number])
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_without_a_number_is_one_that_is_free(tmp_path: Path) -> None:
    with another(tmp_path, f"{tmp_path.name}-0"):
        assert runtime.pick_device("cuda") == torch.device("cuda:1")
        assert runtime.pick_device("auto") == torch.device("cuda:1")
    assert runtime.pick_device("cuda:0") == torch.device("cuda:0")


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match="this machine has 2 usable GPUs"):
        runtime.pick_device("cuda:2")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The command that this process was replaced by."""
    programs: list[list[str]] = []
    monkeypatch.setattr(runtime.os, "execv", lambda _, arguments: programs.append(arguments))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-5,GPU-6,GPU-7")
    monkeypatch.setenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "120")
    return programs


@pytest.mark.usefixtures("two_gpus")
def test_processes_of_one_model_have_a_gpu_each(
    started: list[list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    distributed.share_among(1, "cuda")
    assert not started
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    with another(tmp_path, f"{tmp_path.name}-1"):
        distributed.share_among(2, "auto")
    (program,) = started
    assert "pcsr.distributed" in program and "2" in program
    assert runtime.os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-5,GPU-7"
    # There they know each other, and what was taken for them.
    for name in runtime.LAUNCHER:
        monkeypatch.setenv(name, "1")
    distributed.share_among(2, "auto")
    assert len(started) == 1
    assert runtime.pick_device("auto") == torch.device("cuda:1")


@pytest.mark.usefixtures("two_gpus")
def test_more_processes_than_gpus_are_refused(started: list[list[str]]) -> None:
    for count, name in ((3, "cuda"), (2, "cuda:0")):
        with pytest.raises(UserError, match=f"--processes {count} --device {name}: each needs a"):
            distributed.share_among(count, name)
    assert not started


def test_several_gpus_are_taken_together_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["a", "b", "c"]
    with another(tmp_path, "b"):
        assert runtime.claim(names, 2) == [0, 2]
    with another(tmp_path, "y"):
        waits = []

        def sleep(seconds: float) -> None:
            waits.append(seconds)
            with another(tmp_path, "x") as (first, _):  # it was not kept
                assert first == 0
            raise InterruptedError

        monkeypatch.setattr(runtime.time, "sleep", sleep)
        with pytest.raises(InterruptedError):
            runtime.claim(["x", "y"], 2)
    assert waits == [runtime.GPU_WAIT]


def test_a_gpu_stays_taken_when_its_process_becomes_another_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    become = TAKE.replace("input()", "import os; os.execvp('cat', ['cat'])")
    command = [sys.executable, "-c", become, str(tmp_path), "only"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == "0\n"
        process.stdin.write("cat is here\n")
        process.stdin.flush()
        assert process.stdout.readline() == "cat is here\n"

        def sleep(_: float) -> None:
            raise InterruptedError

        monkeypatch.setattr(runtime.time, "sleep", sleep)
        with pytest.raises(InterruptedError):
            runtime.claim(["only"])
        process.kill()


def test_lock_files_are_the_user_s_own(tmp_path: Path) -> None:
    folder = tmp_path / f"pcsr-{runtime.os.geteuid()}"
    kept = tmp_path / "kept"
    kept.write_text("not a lock file")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)

    def refused() -> None:
        with pytest.raises(UserError, match="that is yours and that others cannot use; remove it"):
            runtime.claim(["a"])

    folder.symlink_to(elsewhere)
    refused()
    folder.unlink()
    folder.write_text("a file")
    refused()
    folder.unlink()
    folder.mkdir()
    folder.chmod(0o777)
    refused()
    folder.chmod(0o700)
    if runtime.os.geteuid() == 0:
        runtime.os.chown(folder, 12345, 12345)
        refused()
        runtime.os.chown(folder, 0, 0)
    (folder / "gpu-a.lock").symlink_to(kept)
    with pytest.raises(OSError):
        runtime.claim(["a"])
    (folder / "gpu-a.lock").unlink()
    (folder / "gpu-a.lock").write_text("what was there stays")
    assert runtime.claim(["a"]) == [0]
    assert (folder / "gpu-a.lock").read_text() == "what was there stays"
    assert kept.read_text() == "not a lock file" and not list(elsewhere.iterdir())
