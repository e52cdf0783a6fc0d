"""Dense maps by oneDNN: the same values, gradients and second derivatives as PyTorch's own."""

from runpy import run_path

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad

from plasticity.networks.layers import product
from plasticity.networks.layers.product import Dense

BATCH, INPUTS, OUTPUTS = 64, 200, 160  # 2,048,000 multiplications


@pytest.fixture(autouse=True)
def counted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of the products that oneDNN makes."""
    seen: list[tuple[int, ...]] = []
    original = product._product

    def watched(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
        seen.append((*a.shape, b.shape[0]))
        return original(a, b, c)

    monkeypatch.setattr(product, "_product", watched)
    monkeypatch.setattr(product, "_HAS_WIDE_UNITS", True)
    return seen


def maps(bias: bool = True) -> tuple[Dense, nn.Linear, Tensor, Tensor]:
    torch.manual_seed(0)
    dense, plain = Dense(INPUTS, OUTPUTS, bias=bias), nn.Linear(INPUTS, OUTPUTS, bias=bias)
    plain.load_state_dict(dense.state_dict())
    x = torch.randn(BATCH, INPUTS)
    return dense, plain, x.clone().requires_grad_(), x.clone().requires_grad_()


@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients_are_those_of_the_plain_map(bias: bool, counted: list[tuple[int, ...]]) -> None:
    dense, plain, x, y = maps(bias)
    outputs, expected = dense(x), plain(y)
    weights = torch.randn_like(outputs)
    (outputs * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(outputs, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(dense.parameters(), plain.parameters(), strict=True):
        assert ours.grad is not None
        assert ours.grad.is_contiguous()
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-4)
    assert counted == [(BATCH, INPUTS, OUTPUTS), (BATCH, OUTPUTS, INPUTS), (OUTPUTS, BATCH, INPUTS)]


def test_without_a_graph_the_values_are_the_same_bits() -> None:
    dense, _, x, _ = maps()
    with torch.no_grad():
        assert torch.equal(dense(x), dense(x.detach().clone()))
        quiet = dense(x)
    assert torch.equal(quiet, dense(x))


def test_second_derivatives() -> None:
    dense, plain, x, y = maps()
    found, expected = (
        torch.autograd.grad(torch.autograd.grad(layer(z).square().sum(), z, create_graph=True)[0].pow(3).sum(), layer.weight)[0]
        for layer, z in ((dense, x), (plain, y))
    )
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-1)


def test_frozen_weights_get_no_gradient_and_cost_no_product(counted: list[tuple[int, ...]]) -> None:
    dense, _, x, _ = maps()
    dense.requires_grad_(False)
    dense(x).sum().backward()
    assert dense.weight.grad is None
    assert x.grad is not None
    assert len(counted) == 2


@pytest.mark.parametrize(
    ("batch", "dtype"), [(1, torch.float32), (31, torch.float32), (40, torch.float32), (BATCH, torch.float64)]
)
def test_small_products_and_other_types_are_pytorchs(batch: int, dtype: torch.dtype, counted: list[tuple[int, ...]]) -> None:
    dense = Dense(INPUTS, OUTPUTS).to(dtype)
    x = torch.randn(batch, INPUTS, dtype=dtype)
    assert torch.equal(dense(x), nn.functional.linear(x, dense.weight, dense.bias))
    assert not counted


def test_autocast_and_functional_calls_are_pytorchs(counted: list[tuple[int, ...]]) -> None:
    dense, _, x, _ = maps()
    with torch.autocast("cpu", torch.bfloat16):
        assert dense(x).dtype == torch.bfloat16
    gradients = grad(lambda weights: functional_call(dense, weights, (x.detach(),)).sum())(dict(dense.named_parameters()))
    assert gradients["bias"].tolist() == [BATCH] * OUTPUTS
    assert not counted


def test_without_512_bit_units_every_product_is_pytorchs(monkeypatch: pytest.MonkeyPatch, counted: list[tuple[int, ...]]) -> None:
    monkeypatch.setattr(product, "_HAS_WIDE_UNITS", False)
    dense, plain, x, _ = maps()
    outputs = dense(x)
    outputs.sum().backward()
    assert torch.equal(outputs, plain(x.detach()))
    assert not counted


@pytest.mark.parametrize(("capability", "wide"), [("AVX512", True), ("AVX2", False), ("DEFAULT", False), ("SVE256", False)])
def test_the_choice_is_made_by_what_the_processor_has(capability: str, wide: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert run_path(str(product.__file__))["_HAS_WIDE_UNITS"] is wide
