"""The checks of the contract find a method that breaks a promise, whichever it is."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from models import build
from torch import Tensor

from pcsr.methods.base import Method
from pcsr.training import contract


def changed(method: Method, name: str, change: Callable[..., Any]) -> None:
    """Change what a function of a method returns; ``change`` maps the original value."""
    own = getattr(method, name)
    object.__setattr__(method, name, lambda *arguments: change(own(*arguments), *arguments))


def labels_as_floats(method: Method) -> None:
    changed(method, "route", lambda labels, *_: labels.float())


def labels_beyond_the_branches(method: Method) -> None:
    changed(method, "route", lambda labels, *_: labels + 1)


def one_branch_has_no_name(method: Method) -> None:
    object.__setattr__(method, "branch_names", ("light head",))


def one_candidate_too_few(method: Method) -> None:
    changed(method, "explore", lambda found, *_: replace(found, candidates=found.candidates[:1]))


def another_image_is_composed(method: Method) -> None:
    changed(method, "compose", lambda sr, *_: sr + 0.01)


def an_image_of_another_size_is_composed(method: Method) -> None:
    changed(method, "compose", lambda sr, *_: sr[..., 1:])


def a_batch_decides_together(method: Method) -> None:
    network: Any = method.get_submodule("encoder")
    own = network.features
    network.features = lambda lr: own(lr + (lr.mean() - lr.mean(dim=(1, 2, 3), keepdim=True)))


def a_halo_is_too_small(method: Method) -> None:
    network: Any = method.get_submodule("encoder")
    network.halo = 0


def flops_are_understated(method: Method) -> None:
    changed(method, "costs", lambda c, *_: replace(c, shared=c.shared.run_as(c.shared.engine - 1)))


def later_knobs_cost_more(method: Method) -> None:
    object.__setattr__(method, "fine_knobs", (25.0, 0.0, -25.0))


def a_part_is_never_trained(method: Method) -> None:
    object.__setattr__(method, "stages", method.stages[:1])


def a_part_is_trained_twice(method: Method) -> None:
    object.__setattr__(method, "stages", (method.stages[0], *method.stages))


def a_loss_of_another_name(method: Method) -> None:
    first, *rest = method.stages
    nameless = replace(first, loss=lambda deploy: lambda *batch: {"l1": torch.zeros(())})
    object.__setattr__(method, "stages", (nameless, *rest))


def an_option_is_not_stored(method: Method) -> None:
    heads = [{"width": 6, "depth": 1}, {"width": 12, "depth": 2}]
    options = {**method.config.options, "heads": heads}
    object.__setattr__(method, "config", method.config.model_copy(update={"options": options}))


BREAKS: dict[Callable[[Method], None], str] = {
    labels_as_floats: "explore, route and compose have the contract's shapes",
    labels_beyond_the_branches: "explore, route and compose have the contract's shapes",
    one_branch_has_no_name: "explore, route and compose have the contract's shapes",
    one_candidate_too_few: "explore, route and compose have the contract's shapes",
    an_image_of_another_size_is_composed: "explore, route and compose have the contract's shapes",
    another_image_is_composed: "the runner gives the composed image",
    a_batch_decides_together: "a batch is its images",
    a_halo_is_too_small: "an image in tiles is the image",
    flops_are_understated: "claimed FLOPs are executed FLOPs",
    later_knobs_cost_more: "fine knobs save more and more",
    a_part_is_never_trained: "stages train their parts, together all",
    a_part_is_trained_twice: "stages train their parts, together all",
    a_loss_of_another_name: "stages train their parts, together all",
    an_option_is_not_stored: "the stored configuration builds the method",
}


@pytest.mark.parametrize("break_it", BREAKS, ids=lambda one: one.__name__)
@torch.no_grad()
def test_a_broken_promise_is_found(break_it: Callable[[Method], None]) -> None:
    method = contract.enliven(build("fsrcnn", "pcsr"))
    break_it(method)
    # `load_state_dict` says it in its own words.
    with pytest.raises((contract.BrokenPromiseError, RuntimeError)):
        contract.PROMISES[BREAKS[break_it]](method)


def test_every_promise_is_broken_by_some_method() -> None:
    assert set(BREAKS.values()) == set(contract.PROMISES)


@torch.no_grad()
def test_promises_are_kept_by_a_method_that_uses_all_branches() -> None:
    method = contract.enliven(build("fsrcnn", "pcsr"))
    for holds in contract.PROMISES.values():
        holds(method)
    assert contract.branches_tried(method) == {0, 1}


def test_the_image_of_the_checks_is_the_same_each_time() -> None:
    first: Tensor = contract.photograph_like(20, 30)
    assert torch.equal(first, contract.photograph_like(20, 30)) and first.std() > 0.1
