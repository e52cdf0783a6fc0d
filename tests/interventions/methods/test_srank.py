from typing import Any

import pytest
import torch
from torch import Tensor

from plasticity.agents.parts import PartBuilder
from plasticity.interventions.methods.srank import Srank, singular_spread
from plasticity.networks.spec import HeadSpec
from plasticity.networks.torsos.feedforward import MLPSpec
from plasticity.optimizers.factory import OptimizerSettings
from plasticity.updates.updater import Updater

SHAPES = {"wide": (4, 7), "tall": (7, 4), "square": (5, 5)}
HEADS = {"mlp": HeadSpec("q", 2), "dueling": HeadSpec("q", 2, dueling=True, stream_widths=(4,))}


def build(case: str = "mlp", treated: bool = True, **settings: Any) -> Updater:
    methods = {"srank": lambda: Srank(**settings)} if treated else {}
    spec = MLPSpec(widths=[5, 4], activations=["tanh"])
    return PartBuilder(spec, (3,), torch.float32, OptimizerSettings("sgd", 0.05), methods)("q", HEADS[case])


def inputs_of(step: int, count: int = 6) -> Tensor:
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(step))


def test_spread_by_hand() -> None:
    # The columns are orthogonal, of lengths 3 and 2.
    assert singular_spread(torch.tensor([[3.0, 0.0], [0.0, 2.0], [0.0, 0.0]])).item() == pytest.approx(5.0)
    # Three columns of two rows: the two singular values are 3 and 2, not 3 and 0.
    assert singular_spread(torch.tensor([[3.0, 0.0, 0.0], [0.0, 2.0, 0.0]])).item() == pytest.approx(5.0)


def test_gradient_by_hand() -> None:
    # sigma_max^2 = a^2, sigma_min^2 = b^2 of diag(a, b): derivatives 2a and -2b.
    features = torch.tensor([[3.0, 0.0], [0.0, 2.0]], requires_grad=True)
    singular_spread(features).backward()
    torch.testing.assert_close(features.grad, torch.tensor([[6.0, 0.0], [0.0, -4.0]]))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_agrees_with_the_singular_values(shape: tuple[int, int]) -> None:
    features = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    sigma = torch.linalg.svdvals(features)
    torch.testing.assert_close(singular_spread(features), sigma[0] ** 2 - sigma[-1] ** 2)
    (ours,) = torch.autograd.grad(singular_spread(features), features)
    (theirs,) = torch.autograd.grad(sigma[0] ** 2 - sigma[-1] ** 2, features)
    torch.testing.assert_close(ours, theirs)
    assert torch.autograd.gradcheck(singular_spread, features)


@pytest.mark.parametrize(
    "features",
    [torch.zeros(4, 3), torch.eye(4), torch.ones(5, 3), torch.eye(3, 5) * 1e-20],
    ids=["dead", "equal", "rank 1", "tiny"],
)
def test_gradients_stay_finite_where_singular_values_coincide(features: Tensor) -> None:
    features = features.clone().requires_grad_()
    singular_spread(features).backward()
    assert features.grad is not None
    assert features.grad.isfinite().all()
    assert features.grad.abs().max() <= 2 * torch.linalg.svdvals(features.detach())[0] + 1e-5


@pytest.mark.parametrize("case", HEADS)
def test_agrees_with_a_penalty_in_the_loss(case: str) -> None:
    treated, plain = build(case, coefficient=0.2), build(case, treated=False)
    for step in range(5):
        treated.step(treated.forward(inputs_of(step)).square().mean(), None)
        loss = plain.forward(inputs_of(step)).square().mean()
        layers: Any = plain.network.get_submodule("torso.layers")
        features = inputs_of(step)
        for layer in layers.values():
            features = torch.tanh(features @ layer.linear.weight.T + layer.linear.bias)
        matrices = [features]
        if case == "dueling":
            streams: Any = plain.network.get_submodule("head.layers")
            matrices = [torch.tanh(features @ stream.linear.weight.T + stream.linear.bias) for stream in streams.values()]
        for matrix in matrices:
            sigma = torch.linalg.svdvals(matrix)
            loss = loss + 0.2 * (sigma[0] ** 2 - sigma[-1] ** 2)
        plain.step(loss, None)
    for value, other in zip(treated.network.parameters(), plain.network.parameters(), strict=True):
        torch.testing.assert_close(value, other, rtol=1e-4, atol=1e-6)


def test_a_batch_of_one_is_refused_with_the_reason() -> None:
    part = build()
    with pytest.raises(ValueError, match=r"^intervention srank compares singular values of a batch, and this one has 1 example"):
        part.step(part.forward(inputs_of(0, count=1)).sum(), None)


def test_no_strength_is_absence_for_a_single_example_too() -> None:
    treated, plain = build(coefficient=0.0), build(treated=False)
    for step in range(3):
        for part in (treated, plain):
            part.step(part.forward(inputs_of(step, count=1)).sum(), None)
    for value, other in zip(treated.network.parameters(), plain.network.parameters(), strict=True):
        assert torch.equal(value, other)


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match=r"srank\.coefficient=-1\.0 must be at least 0"):
        Srank(coefficient=-1.0)
