"""Devices, seeds, threads, memory, logging and progress bars."""

import ctypes
import fcntl
import logging
import os
import platform
import stat
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from math import ceil
from pathlib import Path
from typing import Annotated, TypeVar

import psutil
import torch
from pydantic import ByteSize, Field, TypeAdapter
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from pcsr import escape
from pcsr.config.models import THREADS_LIMIT
from pcsr.config.options import CORES
from pcsr.errors import UserError, log

T = TypeVar("T")
ModuleT = TypeVar("ModuleT", bound=nn.Module)

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of malloc.h
LAUNCHER = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
# Share of a memory limit that stays unused: an image of 8192 x 8192 took up to 2.5 % above 1 GiB.
MEMORY_MARGIN = 0.06
GPU_WAIT = 5.0  # seconds between attempts to claim a GPU


class DispatchMode(TorchDispatchMode):
    """Base of modes that watch or replace the operations that torch executes."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # The default imports torch's compiler, which takes a second, to keep it out of the class.
        return False


def pick_device(name: str) -> torch.device:
    """Return the device called ``name``; ``"auto"`` is a GPU if there is one, else the CPU.

    A GPU becomes the current device, and no other process of the suite uses it until this one
    ends. ``"cuda"`` is any GPU that no other process of the suite uses, ``"cuda:1"`` the second of
    this machine; the call waits until it is free.

    Raises:
        UserError: the name is not a device, or is a GPU that this machine does not have.
    """
    device = device_named(name)
    if device.type == "cuda":
        # The launcher of several processes has claimed their GPUs.
        index = int(os.environ["LOCAL_RANK"]) if launched() else claim_gpus(device)[0]
        device = torch.device("cuda", index)
        torch.cuda.set_device(device)
    return device


def launched() -> bool:
    """Tell whether ``torchrun``, or a launcher that sets the same variables, started this process.

    Only all of the variables count; a shell may have a few of them left over.
    """
    return all(name in os.environ for name in LAUNCHER)


def device_named(name: str) -> torch.device:
    """Return the device called ``name`` without claiming it.

    Raises:
        UserError: the name is not a device, or is a GPU that this machine does not have.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(
            f"--device {name}: no such device; use auto, cpu, cuda or cuda:N."
        ) from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--device {name}: only cpu and cuda are supported; use --device auto.")
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= found:
        raise UserError(
            f"--device {device}: this machine has {found} usable GPUs; use --device cpu."
        )
    return device


def claim_gpus(device: torch.device, count: int = 1) -> list[int]:
    """Claim ``count`` GPUs for this process, waiting for them; return their indices.

    ``device`` with an index restricts the choice to that GPU.
    """
    usable = range(torch.cuda.device_count()) if device.index is None else [device.index]
    names = [str(torch.cuda.get_device_properties(number).uuid) for number in usable]
    return [usable[place] for place in claim(names, count)]


def claim(names: Sequence[str], count: int = 1) -> list[int]:
    """Claim ``count`` of these GPUs for the life of this process; waits until that many are free.

    Each GPU has a lock file, which stays open and locked. The system releases the lock when the
    process ends, however it ends; it survives ``exec``. A process may claim a GPU again that it
    already has. A waiting process holds no GPU, so that two processes that need several GPUs cannot
    deadlock.

    Args:
        names: identifiers of the GPUs, unique on this machine and independent of which GPUs a
            process can see; at least ``count``.

    Returns:
        The positions of the claimed GPUs in ``names``.

    Raises:
        UserError: the folder of the lock files is not this user's own.
    """
    folder = _lock_folder()
    warned = False
    while True:
        taken: dict[int, int] = {}
        for number, name in enumerate(names):
            file = _lock(folder / f"gpu-{name}.lock")
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
        time.sleep(GPU_WAIT)


def _lock_folder() -> Path:
    """Return this user's folder of lock files, beside those of other users."""
    folder = Path(tempfile.gettempdir()) / f"pcsr-{os.geteuid()}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    private = found.st_uid == os.geteuid() and not stat.S_IMODE(found.st_mode) & 0o077
    if not stat.S_ISDIR(found.st_mode) or not private:
        raise UserError(
            f"{folder}: must be a folder that is yours and that others cannot use; remove it, or "
            "set TMPDIR to another folder."
        )
    return folder


def _lock(path: Path) -> int | None:
    """Lock a file; on a file system without locks, every attempt succeeds.

    Not by ``filelock``: its lock ends with ``exec``, by which ``torchrun`` is started, and a second
    one on the same file blocks the process itself.

    Returns:
        The open file descriptor that holds the lock; None if another process has it.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        os.close(file)
        return None
    except OSError:
        log.warning("%s: no locks on this file system; GPUs may be shared by accident", path)
    os.set_inheritable(file, True)
    return file


def move(model: ModuleT, device: torch.device) -> ModuleT:
    """Move a model to a device; on a CPU also to the channels-last memory format.

    Grouped convolutions (CARN's) take two thirds of the time in it, and others no longer than
    before.
    """
    last = torch.channels_last if device.type == "cpu" else torch.contiguous_format
    return model.to(device, memory_format=last)  # type: ignore[call-overload]


def free_memory(device: torch.device) -> float:
    """Return the bytes of memory available on a device."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    return float(psutil.virtual_memory().available)


def used_memory(device: torch.device) -> float:
    """Return the bytes this process uses; on a CPU, freed memory is released first."""
    if device.type == "cuda":
        return float(torch.cuda.memory_allocated(device))
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # including gaps between blocks in use
    return float(psutil.Process().memory_info().rss)


def read_bytes(text: str | None) -> int | None:
    """Return the bytes to plan with for a limit such as 2GiB, a little less; None stays None.

    Raises:
        UserError: the text is not a size.
    """
    if text is None:
        return None
    try:
        size = TypeAdapter(Annotated[ByteSize, Field(ge=1, le=2**60)]).validate_python(text)
        return max(1, int(size * (1 - MEMORY_MARGIN)))
    except ValueError:
        raise UserError(f"--max-memory {text}: give a size such as 2GiB or 800MiB.") from None


def size_text(count: float) -> str:
    """Return a limit for ``read_bytes`` that leaves at least ``count`` bytes to plan with."""
    return f"{ceil(count / (1 - MEMORY_MARGIN) / 2**20)}MiB"


def describe(device: torch.device) -> str:
    """Return the device's name for provenance, e.g. ``NVIDIA H200`` or ``cpu``."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def processor() -> str:
    """Return the name of this machine's processor, e.g. ``AMD EPYC``, for times measured on it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def set_up(seed: int, threads: int) -> None:
    """Seed torch, set the number of CPU threads, and select reproducible kernels.

    On a CPU, the same seed and number of threads then give identical bits. On a GPU, kernels
    without a reproducible version are still used, with a warning from torch. Freed memory stays
    with the process (``keep_memory``).

    Raises:
        UserError: ``threads`` is above ``THREADS_LIMIT``.
    """
    if threads > THREADS_LIMIT:
        raise UserError(
            f"{threads} CPU threads: at most {THREADS_LIMIT} are supported, and this process has "
            f"{CORES} cores; give a lower --threads, or `threads` in the suite."
        )
    if threads > CORES:
        log.warning("%d threads on %d cores: slower than %d", threads, CORES, CORES)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    # `torch.use_deterministic_algorithms` is this and the compiler's variable, but it imports the
    # compiler, which takes a second.
    torch.set_deterministic_debug_mode("warn")
    os.environ["TORCHINDUCTOR_DETERMINISTIC"] = "1"
    # Nothing in the suite reads uninitialised memory, so filling it would only cost time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    keep_memory()


def keep_memory() -> None:
    """Make this process retain the memory it frees, where the C library is glibc.

    By default, large blocks are returned to the system at once and cleared page by page when
    allocated again. Networks allocate and free hundreds of them, which doubles their time on a CPU.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)  # never


class _OneLine(logging.Formatter):
    """Log a message as one line; names and foreign text cannot control the terminal."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        return escape.printable(super().formatMessage(record))


class _LogFile(logging.FileHandler):
    """A log file that raises an error naming its path if the disk is full."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, self.baseFilename) from error
        super().handleError(record)


def setup_logging(file: Path | None = None, quiet: bool = False) -> None:
    """Log to the terminal, and as plain lines to ``file`` if given; ``quiet``: warnings only."""
    log.setLevel(logging.WARNING if quiet else logging.INFO)
    for handler in list(log.handlers):
        log.removeHandler(handler)
        handler.close()
    plain = _OneLine("%(asctime)s %(levelname)s %(message)s")
    if sys.stderr.isatty():
        from rich import reconfigure  # noqa: PLC0415 - nothing but a terminal waits for its import
        from rich.logging import RichHandler  # noqa: PLC0415

        reconfigure(stderr=True)  # log lines and progress bars must share rich's console
        log.addHandler(RichHandler(show_path=False, log_time_format="[%X]"))
        log.handlers[-1].setFormatter(_OneLine("%(message)s"))
    else:  # not rich, which would wrap lines to a terminal that is not there
        log.addHandler(logging.StreamHandler())
        log.handlers[-1].setFormatter(plain)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        log.addHandler(_LogFile(file, encoding="utf-8"))
        log.handlers[-1].setFormatter(plain)


def progress(steps: Sequence[T], description: str, done: int = 0) -> Iterable[T]:
    """Show a progress bar over ``steps`` on a terminal; an earlier run did ``done`` more.

    Elsewhere nothing is shown, because log lines report the progress.
    """
    if not (sys.stderr.isatty() and log.isEnabledFor(logging.INFO)):
        return steps
    from rich.progress import track  # noqa: PLC0415 - see setup_logging

    return track(steps, description, total=done + len(steps), completed=done)
