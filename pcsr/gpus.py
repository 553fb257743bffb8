"""Which GPU a process takes: one that no other process of the suite has."""

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


def claim(names: Sequence[str], folder: Path | None = None) -> int:
    """Take one of some GPUs for as long as this process lives; waits until one is free.

    Each GPU has a lock file, which is held open and never released: the system does that when the
    process ends, however it ends. A process may take what it has again.

    Args:
        names: what identifies the GPUs on this machine, whoever sees which of them.
        folder: of the lock files, the same for all processes; by default that for temporary files.

    Returns:
        The position of the GPU in ``names``.
    """
    folder = folder or Path(tempfile.gettempdir())
    told = False
    while True:
        for number, name in enumerate(names):
            if _lock(folder / f"pcsr-gpu-{name}.lock"):
                return number
        if not told:
            told = True
            log.warning(
                "other runs of the suite have %s; waiting for their end (--device cpu does not)",
                "the GPU" if len(names) == 1 else f"all {len(names)} GPUs",
            )
        time.sleep(WAIT)


def _lock(path: Path) -> bool:
    """Lock a file, if no other process has; a file system without locks locks all."""
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
        return False
    except OSError:
        log.warning("%s: no locks on this file system; GPUs may be shared by accident", path)
    return True
