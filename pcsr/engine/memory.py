"""How much memory networks take."""

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary, finalize

import torch
from torch import Tensor
from torch.utils._pytree import tree_iter

from pcsr.backbones.base import Backbone
from pcsr.runtime import DispatchMode

PROBE = 8  # least side in LR pixels of the image for which memory is measured
# Memory of a process relative to that of its tensors: libraries have their own, and glibc leaves
# gaps that no tensor of the same size fits. Measured at 1.5 for CARN.
SLACK = 1.7
# Most bytes for a tile, whatever the limit: on a CPU more is not faster, because the system clears
# new memory page by page.
ENOUGH = {"cpu": 1 << 31, "cuda": 1 << 36}


class Held(DispatchMode):
    """Count the bytes of the tensors that are alive (``now``) and their maximum (``peak``)."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._counted: WeakKeyDictionary[Any, None] = WeakKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_iter(result):
            if isinstance(value, Tensor) and not value.is_mkldnn:  # packed weights have no storage
                self._hold(value.untyped_storage())
        return result

    def _hold(self, storage: torch.UntypedStorage) -> None:
        if storage not in self._counted:
            self._counted[storage] = None
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            finalize(storage, self._drop, storage.nbytes())

    def _drop(self, size: int) -> None:
        self.now -= size


def bytes_per_pixel(layers: Callable[..., Tensor], *inputs: Tensor) -> float:
    """Return the peak memory of convolutional layers, in bytes per pixel of (1, C, h, w)."""
    with torch.no_grad(), Held() as held:
        layers(*inputs)
    return SLACK * held.peak / inputs[0][0, 0].numel()


def probe(network: Backbone) -> Tensor:
    """Return an image for measuring a network's memory, which does not depend on its values."""
    side = max(PROBE, network.least_side)
    return next(network.parameters()).new_zeros(1, 3, side, side)
