"""Which GPUs a process takes: such as no other process of the suite has."""

import fcntl
import logging
import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

log = logging.getLogger("pcsr")

WAIT = 5.0  # seconds between two looks for a GPU that became free


def claim(names: Sequence[str], count: int = 1, folder: Path | None = None) -> list[int]:
    """Take some of these GPUs for as long as this process lives; waits until so many are free.

    Each GPU has a lock file, which is held open and never released: the system does that when the
    process ends, however it ends, and not when it becomes another program. A process may take what
    it has again. Who waits has none, so that two that want several do not wait for each other.

    Args:
        names: what identifies the GPUs on this machine, whoever sees which of them.
        count: of GPUs that are taken, at most that of ``names``.
        folder: of the lock files, the same for all processes; by default that for temporary files.

    Returns:
        The positions of the GPUs in ``names``.
    """
    folder = folder or Path(tempfile.gettempdir())
    told = False
    while True:
        taken: dict[int, int] = {}
        for number, name in enumerate(names):
            file = _lock(folder / f"pcsr-gpu-{name}.lock")
            if file is not None:
                taken[number] = file
            if len(taken) == count:
                return list(taken)
        for file in taken.values():
            os.close(file)
        if not told:
            told = True
            log.warning(
                "waiting for %d of %d GPUs, which other runs of the suite have (--device cpu does "
                "not wait)",
                count,
                len(names),
            )
        time.sleep(WAIT)


def _lock(path: Path) -> int | None:
    """Lock a file, if no other process has; a file system without locks locks all.

    Returns:
        The open file, on which the lock hangs.
    """
    try:
        file = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        file = os.open(path, os.O_RDWR | os.O_CREAT)
        with suppress(PermissionError):  # another user's, who made it in between
            os.fchmod(file, 0o666)
    try:
        # Unlike a lock by flock, this one is the process's: it does not wait for itself.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        os.close(file)
        return None
    except OSError:
        log.warning("%s: no locks on this file system; GPUs may be shared by accident", path)
    os.set_inheritable(file, True)  # for the program that this process becomes
    return file
