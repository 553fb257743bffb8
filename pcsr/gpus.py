"""Claim GPUs, so that no two processes of the suite use the same one."""

import fcntl
import logging
import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

log = logging.getLogger("pcsr")

WAIT = 5.0  # seconds between attempts to claim a GPU


def claim(names: Sequence[str], count: int = 1, folder: Path | None = None) -> list[int]:
    """Claim ``count`` of these GPUs for the life of this process; waits until that many are free.

    Each GPU has a lock file, which stays open and locked. The system releases the lock when the
    process ends, however it ends; it survives ``exec``. A process may claim a GPU again that it
    already has. A waiting process holds no GPU, so that two processes that need several GPUs cannot
    deadlock.

    Args:
        names: identifiers of the GPUs, unique on this machine and independent of which GPUs a
            process can see.
        count: number of GPUs to claim, at most ``len(names)``.
        folder: of the lock files, the same for all processes; default: the system's folder for
            temporary files.

    Returns:
        The positions of the claimed GPUs in ``names``.
    """
    folder = folder or Path(tempfile.gettempdir())
    warned = False
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
        if not warned:
            warned = True
            log.warning(
                "waiting for %d of %d GPUs, which other runs of the suite have (--device cpu does "
                "not wait)",
                count,
                len(names),
            )
        time.sleep(WAIT)


def _lock(path: Path) -> int | None:
    """Lock a file; on a file system without locks, every attempt succeeds.

    Returns:
        The open file descriptor that holds the lock; None if another process has it.
    """
    try:
        file = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        file = os.open(path, os.O_RDWR | os.O_CREAT)
        with suppress(PermissionError):  # another user created it in the meantime
            os.fchmod(file, 0o666)
    try:
        # Unlike flock's, this lock belongs to the process, so it never blocks on itself.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        os.close(file)
        return None
    except OSError:
        log.warning("%s: no locks on this file system; GPUs may be shared by accident", path)
    os.set_inheritable(file, True)  # survives exec, by which torchrun is started
    return file
