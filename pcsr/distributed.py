"""Training by several processes that ``torchrun`` started; alone, every call does nothing."""

import gc
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pcsr.errors import UserError
from pcsr.runtime import claim_gpus, device_named


def share_among(count: int, device_name: str) -> None:
    """Start this command anew in several processes, by ``torchrun``; does not return then.

    Does nothing for a count below 2, and in a process that ``torchrun`` started. GPUs are taken
    here for all of them, so that none waits for one while the others wait for it.

    Raises:
        UserError: there are fewer GPUs than processes.
    """
    if count < 2 or "LOCAL_RANK" in os.environ:
        return
    device = device_named(device_name)
    if device.type == "cuda":
        found = torch.cuda.device_count() if device.index is None else 1
        if count > found:
            raise UserError(
                f"--processes {count} --device {device_name}: each needs a GPU of its own, and "
                f"here {'is' if found == 1 else 'are'} {found}; use fewer processes."
            )
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = visible.split(",") if visible else [str(number) for number in range(found)]
        taken = [names[number] for number in claim_gpus(device, count)]
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
