"""Device, seeds, threads, logging and processes of a run."""

import ctypes
import gc
import logging
import os
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import psutil
import torch
import torch.distributed as dist
from rich import get_console, reconfigure
from rich.logging import RichHandler
from rich.progress import track
from torch import Tensor, nn

from pcsr import gpus
from pcsr.errors import UserError

T = TypeVar("T")
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of malloc.h
ModuleT = TypeVar("ModuleT", bound=nn.Module)


def pick_device(name: str) -> torch.device:
    """Return the device called ``name``; ``"auto"`` is a GPU where there is one, else the CPU.

    A GPU is this process's alone until it ends, as far as the suite is concerned, and its current
    one. ``"cuda"`` is any that no other process has, and ``"cuda:1"`` the second of this machine;
    it is waited for.

    Raises:
        UserError: the name is no device, or names a GPU that this machine does not have.
    """
    device = _device(name)
    if device.type == "cuda":
        rank = os.environ.get("LOCAL_RANK")  # of those that torchrun started, which has the GPUs
        device = torch.device("cuda", _claim(device)[0] if rank is None else int(rank))
        torch.cuda.set_device(device)
    return device


def _device(name: str) -> torch.device:
    """Return the device that a user names, if this machine has it."""
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


def _claim(device: torch.device, count: int = 1) -> list[int]:
    """Take so many GPUs for this process; ``device`` may say which."""
    usable = range(torch.cuda.device_count()) if device.index is None else [device.index]
    names = [str(torch.cuda.get_device_properties(number).uuid) for number in usable]
    return [usable[place] for place in gpus.claim(names, count)]


def move(model: ModuleT, device: torch.device) -> ModuleT:
    """Put a model on a device; on a CPU with its channels last.

    Grouped convolutions, CARN's, take two thirds of the time so, and others no more.
    """
    last = torch.channels_last if device.type == "cpu" else torch.contiguous_format
    return model.to(device, memory_format=last)  # type: ignore[call-overload]


def free_memory(device: torch.device) -> float:
    """Return how many bytes can still be taken on a device."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    return float(psutil.virtual_memory().available)


def used_memory(device: torch.device) -> float:
    """Return how many bytes this process needs now; what it only keeps is given back first."""
    if device.type == "cuda":
        return float(torch.cuda.memory_allocated(device))
    give_back_memory()
    return float(psutil.Process().memory_info().rss)


def give_back_memory() -> None:
    """Return freed memory to the system, which closes the gaps between blocks in use."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def describe(device: torch.device) -> str:
    """Return the device's name for provenance, e.g. ``NVIDIA H200`` or ``cpu``."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def set_up(seed: int, threads: int) -> None:
    """Seed torch, fix the number of CPU threads, ask for reproducible kernels, keep freed memory.

    On the CPU the same seed and threads then give the same bits. On a GPU kernels without a
    reproducible version are still used, with a warning from torch.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Nothing here reads memory that it has not written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    _keep_memory()


def _keep_memory() -> None:
    """Let this process keep the memory that it frees, where the C library is glibc.

    By default large blocks go back to the system at once and are cleared page by page when they
    are taken again. Networks take and free hundreds of them: on a CPU it doubles their time.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)  # never


class _LogFile(logging.FileHandler):
    """A log file whose full disk is an error with a name, not a traceback per line."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, self.baseFilename) from error
        super().handleError(record)


def setup_logging(file: Path | None = None, quiet: bool = False) -> None:
    """Log to the terminal, and as plain lines to ``file`` if given; ``quiet``: warnings alone."""
    logger = logging.getLogger("pcsr")
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    plain = logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    reconfigure(stderr=True)  # rich's console, which lines and progress bars must share
    if get_console().is_terminal:
        logger.addHandler(RichHandler(show_path=False, log_time_format="[%X]"))
    else:  # no line is broken to fit a screen that is not there
        logger.addHandler(logging.StreamHandler())
        logger.handlers[-1].setFormatter(plain)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        logger.addHandler(_LogFile(file))
        logger.handlers[-1].setFormatter(plain)


def progress(steps: Sequence[T], description: str, done: int = 0) -> Iterable[T]:
    """Show a bar over ``steps`` on a terminal; ``done`` more were done in an earlier run.

    Elsewhere nothing is shown: there the lines of the log tell how far a run is.
    """
    shown = get_console().is_terminal and logging.getLogger("pcsr").isEnabledFor(logging.INFO)
    total = done + len(steps)
    return track(steps, description, total=total, completed=done, disable=not shown)


def share_among(count: int, device_name: str) -> None:
    """Start this command anew in several processes, by ``torchrun``; does not return then.

    Does nothing for a count below 2, and in a process that ``torchrun`` started. GPUs are taken
    here for all of them, so that none waits for one while the others wait for it.

    Raises:
        UserError: there are fewer GPUs than processes.
    """
    if count < 2 or "LOCAL_RANK" in os.environ:
        return
    device = _device(device_name)
    if device.type == "cuda":
        found = torch.cuda.device_count() if device.index is None else 1
        if count > found:
            raise UserError(
                f"--processes {count} --device {device_name}: each needs a GPU of its own, and "
                f"here {'is' if found == 1 else 'are'} {found}; use fewer processes."
            )
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = visible.split(",") if visible else [str(number) for number in range(found)]
        taken = [names[number] for number in _claim(device, count)]
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(taken)
    # To save takes a while, after which torchrun would end its processes.
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "120")
    run = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count))
    os.execv(sys.executable, [sys.executable, *run, "-m", "pcsr", *sys.argv[1:]])


@contextmanager
def processes(device: torch.device) -> Iterator[tuple[int, int]]:
    """Join the processes that ``torchrun`` started; yields rank and world size, 0 and 1 alone."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield 0, 1
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield dist.get_rank(), world
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)
        raise
    finally:
        # What wraps a model must be gone first, so that the group goes here: later Python would
        # wait for a thread of the group, and the thread for Python's lock.
        gc.collect()
        dist.destroy_process_group()


def place() -> tuple[int, int]:
    """Return this process's rank and the number of processes; (0, 1) when alone."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def barrier() -> None:
    """Wait until all processes are here."""
    if dist.is_initialized():
        dist.barrier()


def any_process(flag: bool) -> bool:
    """Tell whether ``flag`` is true in any process; all get the same answer."""
    if not dist.is_initialized():
        return flag
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    flags = torch.tensor(int(flag), device=device)
    dist.all_reduce(flags, op=dist.ReduceOp.MAX)
    return bool(flags)


def mean(x: Tensor) -> Tensor:
    """Average ``x`` over all processes, without gradient."""
    return sum_over_processes(x.detach()) / place()[1]


def sum_over_processes(x: Tensor) -> Tensor:
    """Sum ``x`` over all training processes, with the right gradient under averaging.

    DistributedDataParallel averages gradients, so the gradient through this sum is multiplied by
    the number of processes: the averaged gradient is then that of one process on the whole batch.
    """
    if not dist.is_initialized():
        return x
    world = dist.get_world_size()
    total = x.detach().clone()
    dist.all_reduce(total)
    return world * x + (total - world * x.detach())


def across_processes(model: nn.Module, device: torch.device) -> nn.Module:
    """Wrap ``model`` so that its forward pass and gradients are shared by all processes."""
    if not dist.is_initialized():
        return model
    if device.type == "cuda":  # there is no synchronised BatchNorm on the CPU
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return nn.parallel.DistributedDataParallel(
        model, device_ids=[device] if device.type == "cuda" else None, broadcast_buffers=False
    )
