"""Kills at any moment: what is run again afterwards ends as if nothing had happened."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torture.commands import beside, jobs, require_plain
from torture.harness import Attempt, Case, Kind

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
MOST = 3  # kills of one job


@contextmanager
def attempts(folder: Path) -> Iterator[Attempt]:
    """Kill a job up to three times, at any moments; the result has to be the same."""
    todo = jobs(folder / "workspace")

    def attempt(case: Case) -> None:
        job = todo[case.number % len(todo)]
        where = beside(folder / "workspace", folder / f"{case.number}")
        for _ in range(case.random.integers(1, MOST + 1)):
            number = SIGNALS[case.random.integers(len(SIGNALS))]
            command = job.start(where)
            command.signal_after(case.random.uniform(0, job.seconds), number)
            status, said, _ = command.end()
            assert "Traceback" not in said, said
            if status not in (-signal.SIGKILL, -signal.SIGTERM):
                require_plain(status, said)
        job.finish(where)

    yield attempt


KIND = Kind(count=40, attempts=attempts, seconds=600, starts=True)
