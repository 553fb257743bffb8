"""Products by oneDNN are torch's, and without its operations torch's own are used."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pcsr.engine.cpu import onednn
from pcsr.engine.cpu.onednn import plain_product, product, product_added


def refuse(*_: Any) -> None:
    raise RuntimeError("another signature")


#: What a version of torch may have in place of oneDNN's operations.
OTHERS = [
    SimpleNamespace(),
    SimpleNamespace(_linear_pointwise=refuse),
    SimpleNamespace(_linear_pointwise=torch.ops.mkldnn._linear_pointwise),
]


@pytest.mark.parametrize("rows", [1, 11, 300])
@pytest.mark.parametrize("relu", [False, True])
def test_products_are_torchs(rows: int, relu: bool) -> None:
    torch.manual_seed(0)
    left, right, bias = torch.randn(rows, 52), torch.randn(52, 37), torch.randn(37)
    for added in (None, bias):
        expected = left.double() @ right.double() + (0 if added is None else added.double())
        if relu:
            expected = expected.relu()
        for made in (product(left, right, added, relu), plain_product(left, right, added, relu)):
            torch.testing.assert_close(made.double(), expected, rtol=1e-4, atol=1e-4)


def test_transposed_matrices_and_sums() -> None:
    torch.manual_seed(0)
    left, right, onto = torch.randn(52, 300).T, torch.randn(37, 52).T, torch.randn(300, 37)
    expected = left.double() @ right.double() + onto.double()
    made = product_added(left, right, onto)
    torch.testing.assert_close(made.double(), expected, rtol=1e-4, atol=1e-4)


def test_other_precisions() -> None:
    torch.manual_seed(0)
    left, right = torch.randn(30, 8, dtype=torch.float64), torch.randn(8, 5, dtype=torch.float64)
    torch.testing.assert_close(product(left, right, relu=True), (left @ right).relu())


@pytest.mark.parametrize("other", OTHERS, ids=["missing", "changed", "no convolutions"])
def test_without_onednns_products_torchs_are_taken(
    other: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    left, right, onto = torch.randn(30, 8), torch.randn(8, 5), torch.randn(30, 5)
    monkeypatch.setattr(torch.ops, "mkldnn", other)
    onednn._usable.cache_clear()
    try:
        assert not onednn.in_onednn(left)
        assert torch.equal(product(left, right, relu=True), (left @ right).relu())
        assert torch.equal(product_added(left, right, onto.clone()), onto.addmm(left, right))
    finally:
        onednn._usable.cache_clear()
