"""Heads on a CPU: some LR rows at a time, finished while they are in cache."""

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcsr import routing
from pcsr.engine import grids
from pcsr.engine.factored import Everywhere, Factored, Gathered, Place, Projection
from pcsr.engine.grids import Band
from pcsr.engine.heads import Heads
from pcsr.engine.regions import Images, Region
from pcsr.errors import UserError
from pcsr.routing import Rule

# How many pixels are handled together; on a GPU so many that launches do not count.
BAND = {
    "cpu": 1 << 19,
    "cuda": 1 << 22,
}  # HR pixels of which those for the more expensive heads are picked
# Numbers in a hidden layer of the pixels that are run together, so that it stays in cache.
SPREAD = {"cpu": 1 << 19, "cuda": 1 << 25}  # of the head that runs on all pixels
GATHERED = {"cpu": 1 << 20, "cuda": 1 << 25}  # of a head that runs on some
HANDLED = 12  # numbers per HR pixel of a band: colours, logits, decisions, what they come from
FLOAT = 4  # bytes


class Banded(Heads):
    """See ``Heads``; products of matrices, band by band."""

    def __init__(
        self,
        classifier: nn.Sequential,
        heads: Sequence[nn.Sequential],
        channels: int,
        precision: torch.dtype,
    ) -> None:
        if precision != torch.float32:
            raise UserError("half precision needs a GPU, and triton; use float32.")
        device = next(classifier.parameters()).device.type
        self._band, self._spread, self._gathered = BAND[device], SPREAD[device], GATHERED[device]
        self._classifier, self._cheapest = (
            Everywhere(head, channels) for head in (classifier, heads[0])
        )
        self._others = [Gathered(head, channels, self._gathered) for head in heads[1:]]
        self._asked = Projection([self._classifier])
        self._light = Projection([self._cheapest])
        self._both = Projection([self._classifier, self._cheapest])

    def needs(self, images: Images) -> tuple[float, float]:
        """See ``Heads.needs``."""
        block = images.hr_pixels / images.lr_pixels
        everywhere = self._classifier, self._cheapest
        # Of an LR pixel: what is projected, and the table while it is put together.
        projected = sum(head.width for head in everywhere)
        projected += 2 * max(head.width for head in self._others)
        numbers = self._band * (HANDLED + projected / block) + 3 * self._gathered
        # Hidden values twice, because the last band has others.
        numbers += 2 * sum(self._spread / head.width * head.hidden_rows for head in everywhere)
        # SR, labels and measures.
        return block * (3 * FLOAT + 1 + len(self._others) * FLOAT), FLOAT * numbers

    def measure(self, region: Region, features: Tensor, rule: Rule) -> list[Tensor]:
        """See ``Heads.measure``: (1, K, pixels) of each band."""
        once, found = _Once(region, self._spread), []
        for band in self._bands(region):
            (asked,) = self._asked(features[band.lr_rows].flatten(0, 1))
            found.append(self._judge(band, once, asked, rule))
        return found

    def inside(self, region: Region, measured: list[Tensor]) -> Tensor:
        """See ``Heads.inside``."""
        if not region.margin:
            return torch.cat(measured, dim=2)
        image = measured[0].new_empty(measured[0].shape[1], *region.size)
        for band, values in zip(self._bands(region), measured, strict=True):
            band.view(image[:, band.hr_rows]).copy_(band.shaped(values[0]))
        return image[:, *region.own()].flatten(1)[None]

    def finish(
        self, region: Region, features: Tensor, rule: Rule, measured: list[Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        """See ``Heads.finish``."""
        sr = features.new_empty(3, *region.size)
        labels = torch.empty(region.size, dtype=torch.uint8, device=sr.device)
        once, around = _Once(region, self._spread), region.around()
        for number, band in enumerate(self._bands(region)):
            mine = features[band.lr_rows].flatten(0, 1)
            if measured:
                (light,) = self._light(mine)
                known = measured[number]
            else:
                asked, light = self._both(mine)
                known = self._judge(band, once, asked, rule)
            chosen = rule.decide(known)[0]
            colours = band.bilinear(around[:, band.lr_rows.start : band.lr_rows.stop + 2])
            self._colour(band, once, mine, light, chosen, colours)
            band.view(sr[:, band.hr_rows]).copy_(band.shaped(colours))
            band.view(labels[None, band.hr_rows]).copy_(band.shaped(chosen[None]))
        return sr, labels

    def refine(self, sr: Tensor, labels: Tensor) -> Tensor:
        """See ``Heads.refine``."""
        return routing.refine_(sr[None], labels[None])[0]

    def _bands(self, region: Region) -> list[Band]:
        block = math.prod(region.size) / math.prod(region.outer.size)
        together = int(self._band / block)
        return grids.bands(region.rows, region.columns, region.outer.size, together)

    def _judge(self, band: Band, once: "_Once", asked: Tensor, rule: Rule) -> Tensor:
        """Return what the rule wants to know, given the features' part of the classifier."""
        known = [
            thin.shaped(rule.measure(logits[None])[0])
            for thin, logits in once.everywhere(band, self._classifier, asked)
        ]
        return torch.cat(known, dim=-2).flatten(1)[None]

    def _colour(
        self,
        band: Band,
        once: "_Once",
        features: Tensor,
        light: Tensor,
        chosen: Tensor,
        colours: Tensor,
    ) -> None:
        """Add to ``colours`` (3, pixels) what the heads give, by the branch of each pixel."""
        expensive = []
        for branch, head in enumerate(self._others, start=1):
            table = head.table(features, band.places(once.places(band, head)))
            for pixels in head.split(self._routed(chosen, branch)):
                first = F.embedding_bag(band.terms(pixels), table, mode="sum")
                values = colours.index_select(1, pixels).add_(head.finish(first).T)
                expensive.append((pixels, values))
        for thin, values in once.everywhere(band, self._cheapest, light):
            band.part(colours, thin).add_(thin.shaped(values))
        for pixels, values in expensive:
            colours.index_copy_(1, pixels, values)

    def _routed(self, chosen: Tensor, branch: int) -> Tensor:
        """Return the numbers of a branch's pixels; of two branches, the second is what is not 0."""
        return (chosen == branch if len(self._others) > 1 else chosen).nonzero()[:, 0]


class _Once:
    """What the heads have to compute or to take once for a region, not for each of its bands."""

    def __init__(self, region: Region, spread: int) -> None:
        self._distinct = grids.distinct(region.rows), grids.distinct(region.columns)
        self._spread = spread
        self._places: dict[Factored, Place] = {}
        self._hidden: dict[tuple[Factored, int], Tensor] = {}

    def places(self, band: Band, head: Factored) -> Place:
        """Return what a band's places add to the first layer of a head."""
        if head not in self._places:
            self._places[head] = head.place(*self._distinct)
        return band.local(self._places[head])

    def everywhere(
        self, band: Band, head: Everywhere, projected: Tensor
    ) -> Iterator[tuple[Band, Tensor]]:
        """Yield thinner bands of a band, and the outputs of a head for their pixels."""
        places = self.places(band, head)
        together = self._spread // head.width * math.prod(band.lr_size) // band.pixels
        for thin in grids.bands(band.rows, band.columns, band.lr_size, together):
            key = head, thin.pixels
            if key not in self._hidden:
                self._hidden[key] = head.hidden(thin.pixels)
            hidden = self._hidden[key]
            thin.everywhere(projected[:, thin.lr_pixels], thin.local(places), hidden[:-1])
            yield thin, head.finish(hidden)
