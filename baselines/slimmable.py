"""One network of several widths: the leading channels are a narrower network (ARM's supernet)."""

from torch import Tensor, nn
from torch.func import functional_call

from pcsr import flops
from pcsr.backbones.base import Backbone
from pcsr.errors import UserError
from pcsr.flops import Flops
from pcsr.methods.base import MakeBackbone


class Slimmable(nn.Module):
    """A backbone of the largest width whose leading channels are the narrower networks.

    A width takes the leading entries of every tensor along every axis. It has no weights of its
    own, and gradients at any width reach the shared ones.

    Args:
        make_backbone: builds the backbone for a width.
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
        # In a tuple, so as not to be submodules: they serve only as shapes, and their own weights
        # are neither used nor stored.
        self._shapes = tuple(make_backbone(width=width, scale=scale) for width in widths)

    def forward(self, lr: Tensor, width: int) -> Tensor:
        """Super-resolve (N, 3, h, w) in [0, 1]; ``width`` is an index, narrowest first."""
        shape = self._shapes[width]
        tensors = {**dict(self.network.named_parameters()), **dict(self.network.named_buffers())}
        leading = {
            name: tensors[name][tuple(slice(length) for length in target.shape)]
            for name, target in (*shape.named_parameters(), *shape.named_buffers())
        }
        return functional_call(shape, leading, (lr,))

    def costs(self) -> list[Flops]:
        """Return the FLOPs per LR pixel of each width."""
        return [flops.per_lr_pixel(shape) for shape in self._shapes]
