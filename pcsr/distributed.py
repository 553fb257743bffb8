"""Training with several processes, started by ``torchrun``; a single process needs none of it."""

import gc
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from pcsr.errors import UserError
from pcsr.runtime import LAUNCHER, claim_gpus, device_named, launched

GRACE = 60  # seconds that a process has for saving after its launcher was killed


def share_among(count: int, device_name: str) -> None:
    """Restart this command in ``count`` processes with ``torchrun``; does not return.

    Returns at once for a count below 2, and in a process that ``torchrun`` started. The GPUs of all
    processes are claimed here, so that no process waits for a GPU while the others wait for it.

    Raises:
        UserError: there are fewer GPUs than processes, or the environment asks for several
            processes that no launcher started.
    """
    if count < 2 or launched():
        _world_size()
        return
    device = device_named(device_name)
    if device.type == "cuda":
        found = torch.cuda.device_count() if device.index is None else 1
        if count > found:
            raise UserError(
                f"--processes {count} --device {device_name}: each needs a GPU of its own, and "
                f"only {found} can be used; use fewer processes."
            )
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = visible.split(",") if visible else [str(number) for number in range(found)]
        taken = [names[number] for number in claim_gpus(device, count)]
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(taken)
    # Saving takes a while; by default torchrun would kill its processes before they are done.
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "120")
    run = ("-m", "pcsr.distributed", "--standalone", "--nproc-per-node", str(count))
    os.execv(sys.executable, [sys.executable, *run, "-m", "pcsr", *sys.argv[1:]])


def torchrun() -> None:
    """Run ``torchrun`` without its traceback, because the processes it started report errors.

    Exits with their status, or with that of an interruption.
    """
    from torch.distributed.run import main  # noqa: PLC0415 - only the launcher needs it

    try:
        main()
    except SignalException as stop:
        sys.exit(128 + stop.sigval)
    except ChildFailedError as error:
        sys.exit(error.get_first_failure()[1].exitcode)


def _world_size() -> int:
    """Return the number of processes that train together."""
    text = os.environ.get("WORLD_SIZE", "1")
    if text == "1":
        return 1
    rank = os.environ.get("RANK", "")
    numbers = text.isdecimal() and rank.isdecimal() and int(rank) < int(text)
    if not (launched() and numbers):
        raise UserError(
            f"WORLD_SIZE={text} is set, but not by torchrun, which sets {', '.join(LAUNCHER[1:])} "
            "to match; unset it (--processes N trains with N processes)."
        )
    return int(text)


@contextmanager
def processes(device: torch.device) -> Iterator[tuple[int, int]]:
    """Join the group of processes that ``torchrun`` started; yield rank and world size.

    A single process gets (0, 1) and no group. A process of a group saves and stops when its
    launcher is killed.

    Raises:
        UserError: the environment asks for a group that cannot be joined.
    """
    world = _world_size()
    if world == 1:
        yield 0, 1
        return
    try:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    except (ValueError, RuntimeError) as error:
        settings = " ".join(f"{name}={os.environ[name]}" for name in LAUNCHER)
        raise UserError(f"{settings}: no group of processes to join ({error}).") from None
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    try:
        yield dist.get_rank(), world
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)
        raise
    finally:
        # Model wrappers must be freed first, so that the group is destroyed here. Later, Python
        # would wait for a thread of the group, and that thread for Python's lock.
        gc.collect()
        dist.destroy_process_group()


def _end_with(launcher: int) -> None:
    """Stop this process when its launcher ends; it would otherwise train on and keep its locks."""
    while os.getppid() == launcher:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)  # training then saves and stops
    time.sleep(GRACE)
    os.kill(os.getpid(), signal.SIGKILL)  # it waits for a process that is no longer there


def place() -> tuple[int, int]:
    """Return this process's rank and the number of processes; (0, 1) for a single process."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def barrier() -> None:
    """Wait until all processes reach this call."""
    if dist.is_initialized():
        dist.barrier()


def any_process(flag: bool) -> bool:
    """Tell whether ``flag`` is true in any process; all get the same answer."""
    if not dist.is_initialized():
        return flag
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    return bool(sum_over_processes(torch.tensor(float(flag), device=device)))


def mean(x: Tensor) -> Tensor:
    """Average ``x`` over all processes; the result has no gradient."""
    return sum_over_processes(x.detach()) / place()[1]


def sum_over_processes(x: Tensor) -> Tensor:
    """Sum ``x`` over all processes, with a gradient that is correct after averaging.

    DistributedDataParallel averages gradients, so the gradient through this sum is multiplied by
    the number of processes. The averaged gradient then equals that of one process on the whole
    batch.
    """
    if not dist.is_initialized():
        return x
    world = dist.get_world_size()
    total = x.detach().clone()
    dist.all_reduce(total)
    return world * x + (total - world * x.detach())


def across_processes(model: nn.Module, device: torch.device) -> nn.Module:
    """Wrap ``model`` so that its gradients are averaged over all processes."""
    if not dist.is_initialized():
        return model
    if device.type == "cuda":  # torch has no synchronised BatchNorm for CPUs
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return nn.parallel.DistributedDataParallel(
        model, device_ids=[device] if device.type == "cuda" else None, broadcast_buffers=False
    )


if __name__ == "__main__":
    torchrun()
