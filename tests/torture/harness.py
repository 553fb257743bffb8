"""Tries the cases of a kind in a process of its own, whose time and memory are watched."""

import logging
import multiprocessing
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psutil

from pcsr.errors import UserError

PROOF = "proof"  # the file, in the working folder, that hostile inputs try to make
MARGIN = 256 * 2**20  # bytes beyond the limit that an input is given
LONGEST = 3000  # characters of a refusal
PATIENCE = 3  # times its limits after which a case is ended
POLL = 0.05  # seconds between two looks at the memory of a process
EXECUTES = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "os.spawn", "subprocess.Popen")


@dataclass(frozen=True)
class Case:
    """A case and its own source of chance, so that it can be repeated alone."""

    number: int
    random: np.random.Generator


Attempt = Callable[[Case], None]


@dataclass(frozen=True)
class Kind:
    """What is tried.

    Attributes:
        count: cases, unless another number is given.
        attempts: given an empty folder, which is also the working folder, gives what tries a case.
            It raises a UserError where the input is refused, returns where it is handled as it
            should be, and raises anything else where it is not.
        memory: bytes that an input may take by the limit that it is given.
        seconds: the longest that a case may take.
        starts: whether the cases themselves start processes.
    """

    count: int
    attempts: Callable[[Path], AbstractContextManager[Attempt]]
    memory: int = 0
    seconds: float = 10
    starts: bool = False


@dataclass
class Tally:
    """What became of the cases of a kind; ``findings`` maps a case to what is wrong."""

    refused: int = 0
    handled: int = 0
    seconds: float = 0
    memory: int = 0
    findings: dict[int, str] = field(default_factory=dict)

    def add(self, number: int, problem: str | None, seconds: float, memory: int) -> None:
        self.seconds, self.memory = max(self.seconds, seconds), max(self.memory, memory)
        if problem is None:
            self.handled += 1
        elif problem == "":
            self.refused += 1
        else:
            self.findings[number] = problem


def torture(kind: Kind, name: str, seed: int, first: int, count: int) -> Tally:
    """Try cases ``first`` to ``first + count - 1`` of a kind."""
    tally, left = Tally(), first
    while left < first + count:
        with TemporaryDirectory(prefix=f"torture-{name}-") as folder:
            left = _until_it_dies(kind, (name, seed, left, first + count, folder), tally)
    return tally


def _until_it_dies(kind: Kind, job: tuple[str, int, int, int, str], tally: Tally) -> int:
    """Run a worker to its end, whatever that is; returns the first case that is left."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    worker = multiprocessing.get_context("spawn").Process(target=_work, args=(kind, job, theirs))
    worker.start()
    theirs.close()
    number = None
    for number, problem, seconds, memory in _reports(kind, worker.pid or 0, ours):
        tally.add(number, problem, seconds, memory)
    worker.kill()
    worker.join()
    if number is None:
        raise RuntimeError(f"the cases of {job[0]} could not be made")
    return number + 1


Report = tuple[int, str | None, float, int]


def _reports(kind: Kind, pid: int, pipe: Connection) -> Iterator[Report]:
    """Yield what a worker reports, and at last why it is given up, if it is."""
    process = psutil.Process(pid)
    number, began, before = 0, None, 0
    while True:
        try:
            if pipe.poll(POLL):
                message = pipe.recv()
                if isinstance(message, int):
                    number, began, before = message, _clock(pid), process.memory_info().rss
                else:
                    began = None
                    yield message
                continue
            grown = process.memory_info().rss - before
        except (EOFError, OSError, psutil.NoSuchProcess):
            if began is not None:
                yield number, "the process died", 0, 0
            return
        if began is None:
            continue
        seconds = _clock(pid) - began
        if grown > PATIENCE * (kind.memory + MARGIN) or seconds > PATIENCE * kind.seconds:
            yield number, f"ended after {seconds:.0f} s, {grown / 2**20:.0f} MiB", seconds, grown
            return


def _work(kind: Kind, job: tuple[str, int, int, int, str], pipe: Connection) -> None:
    name, seed, first, last, folder = job
    os.chdir(folder)
    executed: list[str] = []
    sys.addaudithook(lambda event, _: executed.append(event) if event in EXECUTES else None)
    with kind.attempts(Path(folder)) as attempt, _quiet_libraries():
        for number in range(first, last):
            case = Case(number, np.random.default_rng([seed, number, *name.encode()]))
            pipe.send(number)
            executed.clear()
            before, began = _fresh_peak(), _clock(os.getpid())
            with warnings.catch_warnings(record=True) as warned:
                problem = _problem(attempt, case)
            seconds, memory = _clock(os.getpid()) - began, max(_peak() - before, 0)
            if seconds > kind.seconds:
                problem = f"took {seconds:.1f} s"
            elif memory > kind.memory + MARGIN:
                problem = f"took {memory / 2**20:.0f} MiB"
            elif Path(folder, PROOF).exists() or (executed and not kind.starts):
                problem = f"executed something: {executed}"
                Path(folder, PROOF).unlink(missing_ok=True)
            elif warned and not problem:
                problem = f"warned: {' '.join(str(warned[0].message).split())[:200]}"
            pipe.send((number, problem, seconds, memory))


def _problem(attempt: Attempt, case: Case) -> str | None:
    """Return None where a case was handled, "" where it was refused, or what is wrong."""
    try:
        attempt(case)
    except UserError as error:
        text = " ".join(str(error).split())
        return "" if 0 < len(text) <= LONGEST else f"a message of {len(text)} characters"
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        where = next((f for f in reversed(frames) if "/pcsr/" in f.filename), frames[-1])
        said = " ".join(str(error).split())[:300]
        return f"{type(error).__name__}: {said} ({Path(where.filename).name}:{where.lineno})"
    return None


def _clock(pid: int) -> float:
    """Return the time in seconds, less what Linux let a process's first thread wait for a core."""
    schedule = Path(f"/proc/{pid}/schedstat")
    waited = int(schedule.read_text().split()[1]) / 1e9 if schedule.exists() else 0
    return time.monotonic() - waited


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Drop logs, and what libraries such as libtiff say of damage; Python's own stderr stays."""
    sys.stderr = os.fdopen(os.dup(2), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    logging.getLogger().addHandler(logging.NullHandler())
    yield


def _fresh_peak() -> int:
    """Forget the peak so far; returns the bytes in use."""
    if sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5")
    return psutil.Process().memory_info().rss


def _peak() -> int:
    """Return the most bytes in use since ``_fresh_peak``; elsewhere than on Linux, those now."""
    if sys.platform != "linux":
        return psutil.Process().memory_info().rss
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
