"""`pcsr` in this process, and in processes forked from this one, which has imported torch."""

import contextlib
import importlib
import io
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import yaml
from PIL import Image
from workspace import ROOT, Workspace

from pcsr import cli
from pcsr.data.store import Store
from pcsr.errors import UserError
from pcsr.weights import checkpoint

PRELOADED = (
    *("pcsr.data.prepare", "pcsr.training.train", "pcsr.evaluation.sweep"),
    *("pcsr.evaluation.upscale", "torch._inductor"),
)
POLL = 0.002  # seconds between two looks at the time that a process computed
SHIPPED = ROOT / "weights/fsrcnn-pcsr.safetensors"
PLAIN = ("--device", "cpu", "--threads", "1")


def _run(arguments: tuple[Any, ...]) -> int:
    sys.argv = ["pcsr", *map(str, arguments)]
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def require_plain(status: int, said: str) -> None:
    """Check what a command that was not killed says: no traceback, one error or none."""
    assert "Traceback" not in said and "Warning: " not in said, said
    assert all(c.isprintable() or c == "\n" for c in said), repr(said)
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(errors) == (status not in (0, 130)), (status, said)


def here(*arguments: Any) -> str:
    """Run a command in this process; returns what it prints.

    Raises:
        UserError: the command was refused, in one line.
    """
    said, told = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(told):
        status = _run(arguments)
    require_plain(status, told.getvalue())
    if status:
        raise UserError(told.getvalue())
    return said.getvalue()


class Forked:
    """A command in a process of its own, in ``folder``; what it says is written to ``log``."""

    def __init__(self, folder: Path, log: Path, *arguments: Any) -> None:
        self.log = log
        self.pid = os.fork()
        if self.pid == 0:
            status = 70
            try:
                os.setsid()
                os.chdir(folder)
                stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.dup2(stream, 1)
                os.dup2(stream, 2)
                sys.stdout, sys.stderr = os.fdopen(1, "w", 1), os.fdopen(2, "w", 1)
                status = _run(arguments)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)

    def signal_after(self, seconds: float, number: signal.Signals) -> None:
        """Send a signal once the process has computed for so long, unless it has ended before."""
        process = psutil.Process(self.pid)
        while process.status() != psutil.STATUS_ZOMBIE:
            spent = process.cpu_times()
            if spent.user + spent.system >= seconds:
                os.kill(self.pid, number)
                return
            time.sleep(POLL)

    def end(self) -> tuple[int, str, float]:
        """Wait for the end; returns the status, what was said, and the seconds it computed."""
        _, status, used = os.wait4(self.pid, 0)
        said = self.log.read_text(encoding="utf-8", errors="surrogateescape")
        return os.waitstatus_to_exitcode(status), said, used.ru_utime + used.ru_stime


Result = dict[str, Any]


class Job:
    """A command, and what it makes in the folder ``out``, of which ``read`` reads the result.

    Attributes:
        result: of an undisturbed run.
        seconds: that the run computed.
        size: bytes of its files.
    """

    def __init__(self, out: str, read: Callable[[Path], Result], *arguments: Any) -> None:
        self.out, self.read, self.arguments = out, read, arguments

    def try_out(self, folder: Path) -> None:
        """Run the command undisturbed."""
        status, said, self.seconds = self.start(folder).end()
        assert status == 0, said
        self.result = self._read(folder)
        self.size = sum(file.stat().st_size for file in (folder / self.out).rglob("*"))

    def start(self, folder: Path) -> Forked:
        return Forked(folder, Path.cwd() / "log", *self.arguments)

    def finish(self, folder: Path) -> None:
        """Run the command, now undisturbed; it has to end as if nothing had happened."""
        status, said, _ = self.start(folder).end()
        assert status == 0, said
        self.check(folder)

    def check(self, folder: Path) -> None:
        """Compare what was made with what an undisturbed run made."""
        found = self._read(folder)
        assert found.keys() == self.result.keys(), f"{self.out}: {[*found]}"
        for name, value in found.items():
            assert value == self.result[name], f"{self.out}: another {name}"

    def _read(self, folder: Path) -> Result:
        left = [path.name for path in (folder / self.out).rglob(".*")]
        assert not left, f"left behind: {left}"
        return self.read(folder / self.out)


def _store(folder: Path) -> Result:
    store = Store.open(folder)
    return {"digest": store.digest, **{p.name: p.read_bytes() for p in folder.glob("*.bin")}}


def _weights(folder: Path) -> Result:
    tensors = checkpoint.load(folder / "weights.safetensors")[0]
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


def _sweep(folder: Path) -> Result:
    (path,) = folder.glob("*.csv")
    return {"rows": pd.read_csv(path).drop(columns="seconds").to_csv()}


def _files(folder: Path) -> Result:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def jobs(folder: Path) -> tuple[Job, ...]:
    """Make a workspace, and run its jobs once.

    Nothing is computed in this process, whose threads a fork would not have.
    """
    for module in PRELOADED:
        importlib.import_module(module)
    workspace = Workspace(folder)
    random = np.random.default_rng(0)
    photographs = folder / "photographs"
    photographs.mkdir()
    for n in range(6):
        coarse = random.integers(0, 256, (12, 12, 3), np.uint8)
        Image.fromarray(coarse).resize((128, 128)).save(photographs / f"{n}.png")
    own = {"photographs": {"source": {"kind": "folder", "path": str(photographs)}}}
    datasets = yaml.safe_load((folder / "configs/datasets.yaml").read_text())
    datasets["datasets"] |= own
    (folder / "configs/datasets.yaml").write_text(yaml.safe_dump(datasets))
    stage = {"iterations": 24, "batch": 2, "patch": 8, "log_every": 1, "save_every": 4}
    stage["validate_every"] = 12
    suite = workspace.suite("torture", overrides={"*": {"stages": {"*": stage}}})
    status, said, _ = Forked(folder, Path.cwd() / "log", "prepare", "embedded-smoke").end()
    assert status == 0, said
    train = ("train", "fsrcnn-pcsr", "stage0", "--suite", suite, "--device", "cpu")
    sweep = ("sweep", "--weights", SHIPPED, "--images", photographs, "--out", "sweep/u.csv", *PLAIN)
    upscale = ("upscale", photographs, "upscaled", "--weights", SHIPPED, *PLAIN)
    made = (
        Job("store", _store, "prepare", "photographs", "--out", "store"),
        Job("run", _weights, *train, "--out", "run/weights.safetensors"),
        Job("sweep", _sweep, *sweep),
        Job("upscaled", _files, *upscale),
    )
    for job in made:
        job.try_out(folder)
    return made


def beside(workspace: Path, folder: Path) -> Path:
    """Make a folder whose commands read what a workspace has, and write their own."""
    folder.mkdir()
    for name in ("configs", "data"):
        (folder / name).symlink_to(workspace / name)
    return folder
