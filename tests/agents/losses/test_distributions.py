import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, Normal, TanhTransform, TransformedDistribution

from plasticity.agents.losses.distributions import (
    categorical_entropy,
    categorical_log_prob,
    gaussian_entropy,
    gaussian_log_prob,
    sample_categorical,
    squash_correction,
    squashed_gaussian,
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# Categorical


def test_categorical_by_hand() -> None:
    # exp of (0, ln 3) is (1, 3): p = (1/4, 3/4); entropy ln 4 - 3/4 ln 3.
    logits = torch.tensor([[0.0, math.log(3)], [0.0, math.log(3)]])
    assert categorical_log_prob(logits, torch.tensor([0, 1])).tolist() == pytest.approx([math.log(0.25), math.log(0.75)])
    assert categorical_entropy(logits).tolist() == pytest.approx([math.log(4) - 0.75 * math.log(3)] * 2)


def test_drawn_actions_are_those_of_multinomial() -> None:
    logits = 3 * torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    own, other = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    for _ in range(20):
        expected = torch.multinomial(logits.softmax(1), 1, generator=other).squeeze(1)
        assert sample_categorical(logits, own).tolist() == expected.tolist()
    assert torch.equal(own.get_state(), other.get_state())


def test_categorical_agrees_with_torch() -> None:
    logits = 5 * normal(50, 7)
    actions = torch.arange(50) % 7
    other = Categorical(logits=logits)
    torch.testing.assert_close(categorical_log_prob(logits, actions), other.log_prob(actions))
    torch.testing.assert_close(categorical_entropy(logits), other.entropy())


def test_an_impossible_action_leaves_the_entropy_finite() -> None:
    assert categorical_entropy(torch.tensor([[0.0, -1e30]])).tolist() == [0.0]


def test_categorical_samples_have_their_frequencies() -> None:
    logits = torch.tensor([[1.0, 3.0, 4.0]]).log().expand(8000, -1)
    counts = torch.bincount(sample_categorical(logits, torch.Generator().manual_seed(0)), minlength=3)
    # Binomial, n = 8000: standard deviation at most 45.
    assert counts.tolist() == pytest.approx([1000, 3000, 4000], abs=180)


# Gaussian


def test_gaussian_by_hand() -> None:
    # At (1, 2), mean (0, 2), deviations (1, e): -1/2 - 1/2 ln 2 pi, and -1 - 1/2 ln 2 pi.
    mean, log_deviation = torch.tensor([[0.0, 2.0]]), torch.tensor([[0.0, 1.0]])
    density = gaussian_log_prob(mean, log_deviation, torch.tensor([[1.0, 2.0]]))
    assert density.tolist() == pytest.approx([-1.5 - math.log(2 * math.pi)])
    # Entropy of N(., s^2): 1/2 ln(2 pi e s^2).
    expected = 0.5 * math.log(2 * math.pi * math.e) + 0.5 * math.log(2 * math.pi * math.e**3)
    assert gaussian_entropy(log_deviation).tolist() == pytest.approx([expected])


def test_gaussian_agrees_with_torch() -> None:
    mean, log_deviation, actions = normal(30, 4), normal(30, 4, seed=1), 3 * normal(30, 4, seed=2)
    other = Independent(Normal(mean, log_deviation.exp()), 1)
    torch.testing.assert_close(gaussian_log_prob(mean, log_deviation, actions), other.log_prob(actions))
    torch.testing.assert_close(gaussian_entropy(log_deviation), other.entropy())


# Squashed Gaussian


def test_squash_correction_is_exact_far_out() -> None:
    # d tanh(u) / du = 1 / cosh(u)^2 in float64; log(1 - tanh^2 + 1e-6) would be off by 1.2 at 8 and by 5 at 10.
    for u in (-20.0, -10.0, -8.0, -3.0, -0.1, 0.0, 0.5, 4.0, 8.0, 10.0, 20.0):
        assert squash_correction(torch.tensor([[u]])).item() == pytest.approx(-2 * math.log(math.cosh(u)), abs=1e-5)


def numerical_log_density(mean: float, deviation: float, u: float) -> float:
    """ln of (Phi at u + h - Phi at u - h) / (tanh(u + h) - tanh(u - h)): mass over width, in float64."""
    h = 1e-4
    side = -1 if u > mean else 1  # the tail that keeps its digits
    near, far = (0.5 * math.erfc(-(side * (u - mean) + step) / (math.sqrt(2) * deviation)) for step in (h, -h))
    mass = near - far
    # tanh(a) - tanh(b) = sinh(a - b) / (cosh a cosh b)
    return math.log(mass / (math.sinh(2 * h) / (math.cosh(u + h) * math.cosh(u - h))))


@pytest.mark.parametrize("u", [-10.0, -7.5, -2.0, -0.3, 0.0, 1.0, 5.0, 8.0, 10.0])
@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (2.0, 3.0), (-6.0, 2.0)])
def test_squashed_density_agrees_with_a_numerical_change_of_variables(u: float, mean: float, deviation: float) -> None:
    noise = torch.tensor([[(u - mean) / deviation]])
    action, density = squashed_gaussian(torch.tensor([[mean]]), torch.tensor([[math.log(deviation)]]), noise)
    assert action.item() == pytest.approx(math.tanh(u), abs=1e-6)
    assert density.item() == pytest.approx(numerical_log_density(mean, deviation, u), abs=1e-3)


def test_squashed_density_agrees_with_torch_up_to_10() -> None:
    u = torch.linspace(-10, 10, 81, dtype=torch.float64).view(-1, 1).repeat(1, 3) * torch.tensor([1.0, 0.5, -0.7])
    mean, log_deviation = 0.5 * normal(81, 3).double(), 0.3 * normal(81, 3, seed=1).double()
    other = TransformedDistribution(Normal(mean, log_deviation.exp()), [TanhTransform(cache_size=1)])
    # The cache hands log_prob the u of a sample, whose tanh could not be inverted.
    transform = other.transforms[0]
    actions = transform(u)
    expected = other.log_prob(actions).sum(1)
    noise = (u - mean) / log_deviation.exp()
    ours, density = squashed_gaussian(mean.float(), log_deviation.float(), noise.float())
    torch.testing.assert_close(ours, actions.float(), rtol=0, atol=1e-5)
    torch.testing.assert_close(density, expected.float(), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("deviation", [0.3, 1.0])
def test_squashed_entropy_by_sampling(deviation: float) -> None:
    # Entropy of tanh(u) = -sum of p(a) ln p(a) da over a fine grid of a, against the mean of -ln p over samples.
    count = 200_000
    mean, log_deviation = torch.full((count, 1), 0.4), torch.full((count, 1), math.log(deviation))
    actions, density = squashed_gaussian(mean, log_deviation, normal(count, 1))
    u = torch.linspace(-8, 8, 200_001, dtype=torch.float64)
    jacobian = 1 / u.cosh().square()
    log_p = Normal(torch.tensor(0.4).double(), torch.tensor(deviation).double()).log_prob(u) - jacobian.log()
    exact = -torch.trapezoid(log_p.exp() * log_p * jacobian, u).item()
    assert -density.mean().item() == pytest.approx(exact, abs=0.01)
    assert actions.abs().max() <= 1


def test_squashed_samples_carry_the_gradient() -> None:
    # a = tanh(m + s e): da/dm = 1 - a^2, da/ds' = (1 - a^2) e s for s = exp(s').
    mean, log_deviation = torch.tensor([[0.3]], requires_grad=True), torch.tensor([[-0.5]], requires_grad=True)
    actions, _ = squashed_gaussian(mean, log_deviation, torch.tensor([[0.7]]))
    actions.sum().backward()
    slope = 1 - math.tanh(0.3 + 0.7 * math.exp(-0.5)) ** 2
    assert mean.grad is not None
    assert log_deviation.grad is not None
    assert mean.grad.item() == pytest.approx(slope, rel=1e-5)
    assert log_deviation.grad.item() == pytest.approx(slope * 0.7 * math.exp(-0.5), rel=1e-5)
