"""GPUs are taken by one process at a time, for as long as it lives."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pcsr import gpus, runtime
from pcsr.errors import UserError

TAKE = """
import sys
from pathlib import Path
from pcsr import gpus
print(gpus.claim(sys.argv[2:], Path(sys.argv[1])), flush=True)
input()
"""


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
        assert gpus.claim(names, tmp_path) == 2
        # Whoever sees other GPUs, in another order, names them alike.
        assert gpus.claim(["b", "c"], tmp_path) == 1


def test_a_process_does_not_wait_for_itself(tmp_path: Path) -> None:
    assert [gpus.claim(["mine"], tmp_path) for _ in range(2)] == [0, 0]


def test_a_gpu_is_waited_for_until_its_process_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with another(tmp_path, "only") as (_, process):

        def sleep(seconds: float) -> None:
            assert seconds == gpus.WAIT
            process.kill()
            process.wait()

        monkeypatch.setattr(gpus.time, "sleep", sleep)
        assert gpus.claim(["only"], tmp_path) == 0
    (line,) = caplog.messages
    assert line.startswith("other runs of the suite have the GPU; waiting for their end")


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    named = [SimpleNamespace(uuid=f"{tmp_path.name}-{number}") for number in range(2)]
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: named[number])
    monkeypatch.setattr(gpus.tempfile, "gettempdir", lambda: str(tmp_path))


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_without_a_number_is_one_that_is_free(tmp_path: Path) -> None:
    with another(tmp_path, f"{tmp_path.name}-0"):
        assert runtime.pick_device("cuda") == torch.device("cuda:1")
        assert runtime.pick_device("auto") == torch.device("cuda:1")
    assert runtime.pick_device("cuda:0") == torch.device("cuda:0")


@pytest.mark.usefixtures("two_gpus")
def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="this machine has 2 usable GPUs"):
        runtime.pick_device("cuda:2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(UserError, match="no more processes than GPUs"):
        runtime.pick_device("cuda")
