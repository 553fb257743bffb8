"""One network of several widths: a narrower one is its leading channels (ARM's supernet)."""

import torch
from torch import Tensor, nn
from torch.func import functional_call

from pcsr import flops
from pcsr.backbones.base import Backbone
from pcsr.errors import UserError
from pcsr.flops import Flops
from pcsr.methods.base import MakeBackbone


class Slimmable(nn.Module):
    """A backbone of the largest width, whose leading channels are the narrower ones.

    Every dimension of every tensor is cut to its leading part, so that a width has no weights of
    its own; a gradient at any width reaches the shared ones.

    Args:
        make_backbone: builds the backbone of a width.
        widths: channels, narrowest first.
        scale: HR size / LR size.

    Raises:
        UserError: the backbone has BatchNorm, whose statistics differ between widths.
    """

    def __init__(self, make_backbone: MakeBackbone, widths: tuple[int, ...], scale: float) -> None:
        super().__init__()
        self.network: Backbone = make_backbone(width=widths[-1], scale=scale)
        if any(isinstance(module, nn.BatchNorm2d) for module in self.network.modules()):
            raise UserError(
                "model.batch_norm: widths that share weights cannot share BatchNorm statistics; "
                "set batch_norm: false."
            )
        # In a tuple, because these are shapes to run in: no weights of theirs are used or stored.
        self._shapes = tuple(make_backbone(width=width, scale=scale) for width in widths)

    def forward(self, lr: Tensor, width: int) -> Tensor:
        """Super-resolve (N, 3, h, w) by the ``width``-th of the widths."""
        shape = self._shapes[width]
        tensors = {**dict(self.network.named_parameters()), **dict(self.network.named_buffers())}
        leading = {
            name: tensors[name][tuple(slice(length) for length in wanted.shape)]
            for name, wanted in (*shape.named_parameters(), *shape.named_buffers())
        }
        output: Tensor = functional_call(shape, leading, (lr,))
        return output

    @torch.no_grad()
    def costs(self) -> list[Flops]:
        """Return the FLOPs per LR pixel of every width."""
        return [flops.per_lr_pixel(shape) for shape in self._shapes]
