"""Heads on a CPU: a few LR rows at a time, finished while they are in cache."""

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

# How much is processed at a time. On a GPU it is so much that launch overhead does not matter.
# HR pixels per band; within a band the pixels of the more expensive heads are gathered.
BAND = {"cpu": 1 << 19, "cuda": 1 << 22}
# Values of a hidden layer that are computed at a time, few enough to stay in a CPU's cache.
SPREAD = {"cpu": 1 << 19, "cuda": 1 << 25}  # of a head that runs on all pixels
GATHERED = {"cpu": 1 << 20, "cuda": 1 << 25}  # of a head that runs on some pixels
HANDLED = 12  # values per HR pixel of a band: RGB, logits, decisions and their intermediates
FLOAT = 4  # bytes


class Banded(Heads):
    """See ``Heads``; matrix products, band by band."""

    def __init__(
        self,
        classifier: nn.Sequential,
        heads: Sequence[nn.Sequential],
        channels: int,
        precision: torch.dtype,
    ) -> None:
        if precision != torch.float32:
            raise UserError("half precision needs a GPU and triton; use float32.")
        device = next(classifier.parameters()).device.type
        self._band, self._spread, self._gathered = BAND[device], SPREAD[device], GATHERED[device]
        self._classifier, self._cheapest = (
            Everywhere(head, channels) for head in (classifier, heads[0])
        )
        self._others = [Gathered(head, channels, self._gathered) for head in heads[1:]]
        self._project_classifier = Projection([self._classifier])
        self._project_cheapest = Projection([self._cheapest])
        self._project_both = Projection([self._classifier, self._cheapest])

    def needs(self, images: Images) -> tuple[float, float]:
        """See ``Heads.needs``."""
        block = images.hr_pixels / images.lr_pixels
        everywhere = self._classifier, self._cheapest
        # Per LR pixel: the projected features, and the table twice while it is concatenated.
        projected = sum(head.width for head in everywhere)
        projected += 2 * max(head.width for head in self._others)
        numbers = self._band * (HANDLED + projected / block) + 3 * self._gathered
        # Hidden values twice, because the last band may have another size.
        numbers += 2 * sum(self._spread / head.width * head.hidden_rows for head in everywhere)
        # SR, labels and measured values.
        return block * (3 * FLOAT + 1 + len(self._others) * FLOAT), FLOAT * numbers

    def measure(self, region: Region, features: Tensor, rule: Rule) -> list[Tensor]:
        """See ``Heads.measure``; one (1, K, pixels) for each band."""
        cache, measured = _RegionCache(region, self._spread), []
        for band in self._bands(region):
            (projected,) = self._project_classifier(features[band.lr_rows].flatten(0, 1))
            measured.append(self._measure(band, cache, projected, rule))
        return measured

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
        cache, around = _RegionCache(region, self._spread), region.around()
        for number, band in enumerate(self._bands(region)):
            lr_features = features[band.lr_rows].flatten(0, 1)
            if measured:
                (projected_cheapest,) = self._project_cheapest(lr_features)
                values = measured[number]
            else:
                projected_classifier, projected_cheapest = self._project_both(lr_features)
                values = self._measure(band, cache, projected_classifier, rule)
            branches = rule.decide(values)[0]
            rgb = band.bilinear(around[:, band.lr_rows.start : band.lr_rows.stop + 2])
            self._add_heads(band, cache, lr_features, projected_cheapest, branches, rgb)
            band.view(sr[:, band.hr_rows]).copy_(band.shaped(rgb))
            band.view(labels[None, band.hr_rows]).copy_(band.shaped(branches[None]))
        return sr, labels

    def refine(self, sr: Tensor, labels: Tensor) -> Tensor:
        """See ``Heads.refine``."""
        return routing.refine_(sr[None], labels[None])[0]

    def _bands(self, region: Region) -> list[Band]:
        block = math.prod(region.size) / math.prod(region.outer.size)
        lr_pixels = int(self._band / block)
        return grids.bands(region.rows, region.columns, region.outer.size, lr_pixels)

    def _measure(self, band: Band, cache: "_RegionCache", projected: Tensor, rule: Rule) -> Tensor:
        """Measure a band by the rule: (1, K, pixels).

        Args:
            band: the band.
            cache: of the region.
            projected: what the features add to the classifier's first layer, (width, LR pixels).
            rule: the rule that will decide.
        """
        values = [
            thinner.shaped(rule.measure(logits[None])[0])
            for thinner, logits in cache.everywhere(band, self._classifier, projected)
        ]
        return torch.cat(values, dim=-2).flatten(1)[None]

    def _add_heads(
        self,
        band: Band,
        cache: "_RegionCache",
        features: Tensor,
        projected_cheapest: Tensor,
        branches: Tensor,
        rgb: Tensor,
    ) -> None:
        """Add to ``rgb`` (3, pixels) the output of the head that each pixel is routed to.

        The expensive heads read ``rgb`` before the cheapest one adds to all of it, and write last.
        """
        expensive = []
        for branch, head in enumerate(self._others, start=1):
            table = head.table(features, band.places(cache.places(band, head)))
            for pixels in head.split(self._routed(branches, branch)):
                first = F.embedding_bag(band.terms(pixels), table, mode="sum")
                rgb_values = rgb.index_select(1, pixels).add_(head.finish(first).T)
                expensive.append((pixels, rgb_values))
        for thinner, rgb_values in cache.everywhere(band, self._cheapest, projected_cheapest):
            band.part(rgb, thinner).add_(thinner.shaped(rgb_values))
        for pixels, rgb_values in expensive:
            rgb.index_copy_(1, pixels, rgb_values)

    def _routed(self, branches: Tensor, branch: int) -> Tensor:
        """Return the numbers of a branch's pixels (n,); with two branches, those that are not 0."""
        return (branches == branch if len(self._others) > 1 else branches).nonzero()[:, 0]


class _RegionCache:
    """What is computed or allocated once for a region and shared by all of its bands."""

    def __init__(self, region: Region, spread: int) -> None:
        self._distinct = grids.distinct(region.rows), grids.distinct(region.columns)
        self._spread = spread
        self._places: dict[Factored, Place] = {}
        self._hidden: dict[tuple[Factored, int], Tensor] = {}

    def places(self, band: Band, head: Factored) -> Place:
        """Return what the places of a band's pixels add to the first layer of a head."""
        if head not in self._places:
            self._places[head] = head.place(*self._distinct)
        return band.local(self._places[head])

    def everywhere(
        self, band: Band, head: Everywhere, projected: Tensor
    ) -> Iterator[tuple[Band, Tensor]]:
        """Cut a band into thinner ones; yield each with a head's outputs for its pixels."""
        places = self.places(band, head)
        lr_pixels = self._spread // head.width * math.prod(band.lr_size) // band.pixels
        for thinner in grids.bands(band.rows, band.columns, band.lr_size, lr_pixels):
            key = head, thinner.pixels
            if key not in self._hidden:
                self._hidden[key] = head.hidden(thinner.pixels)
            hidden = self._hidden[key]
            thinner.everywhere(projected[:, thinner.lr_pixels], thinner.local(places), hidden[:-1])
            yield thinner, head.finish(hidden)
