"""Disks that are full or read-only: one line, and afterwards the result is as it should be."""

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torture.commands import beside, jobs, require_plain
from torture.harness import Attempt, Case, Kind

OWN_MOUNTS, OWN_USERS = 0x20000, 0x10000000  # CLONE_NEWNS, CLONE_NEWUSER
PAGE = os.sysconf("SC_PAGE_SIZE")
ROOM = 2**26  # bytes of a disk with room
EVERY = 6  # of the disks that is read-only


def mount(*arguments: object) -> None:
    subprocess.run(["mount", *map(str, arguments)], check=True)


def leave_the_mounts_of_others() -> None:
    """Give this process mounts of its own, as root or as any user who may have namespaces."""
    user, group, own = os.getuid(), os.getgid(), ctypes.CDLL(None, use_errno=True)
    if own.unshare(OWN_MOUNTS):
        if own.unshare(OWN_MOUNTS | OWN_USERS):
            raise OSError(ctypes.get_errno(), "small disks cannot be made here: try it as root")
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    mount("--make-rprivate", "/")


@contextmanager
def attempts(folder: Path) -> Iterator[Attempt]:
    """Run a job on a small disk, then once more with room; the result has to be the same."""
    todo = jobs(folder / "workspace")
    leave_the_mounts_of_others()
    disk = folder / "disk"
    disk.mkdir()

    def attempt(case: Case) -> None:
        job = todo[case.number % len(todo)]
        pages = int(case.random.integers(1, max(2, job.size // PAGE)))
        mount("-t", "tmpfs", "-o", f"size={ROOM}", "none", disk)
        try:
            where = beside(folder / "workspace", disk / "here")
            small = "ro" if case.number % EVERY == EVERY - 1 else f"size={pages * PAGE}"
            mount("-o", f"remount,{small}", disk)
            status, said, _ = job.start(where).end()
            require_plain(status, said)
            if status == 0:  # the smallest results fit on it
                job.check(where)
            mount("-o", f"remount,rw,size={ROOM}", disk)
            job.finish(where)
        finally:
            subprocess.run(["umount", disk], check=True)

    yield attempt


KIND = Kind(count=40, attempts=attempts, seconds=600, starts=True)
