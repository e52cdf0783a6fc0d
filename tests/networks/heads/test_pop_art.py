"""PopArt's head: moments, normalised values, and a rescaling that changes no value."""

from typing import Any

import pytest
import torch

from plasticity.networks.factory import build_network
from plasticity.networks.heads.output_heads import build_head
from plasticity.networks.heads.pop_art import PopArtHead, pop_art_heads
from plasticity.networks.layers.noisy import fresh_noise
from plasticity.networks.network import Network
from plasticity.networks.spec import HeadSpec
from plasticity.networks.torsos.feedforward import MLPSpec


def network_of(members: int = 1, **head: Any) -> Network:
    spec = HeadSpec(**({"kind": "q", "outputs": 3, "pop_art": True} | head))
    return build_network(MLPSpec(widths=[6]), (4,), torch.float32, spec, 0, members)


def head_of(network: Network) -> PopArtHead:
    return pop_art_heads(network)[0]


def moments(head: PopArtHead) -> list[float]:
    return [float(head.mean), float(head.second_moment), float(head.deviation)]


def test_by_hand() -> None:
    # Targets 4 and 8 have mean 6 and mean square 40: mu = 0.5 * 6 = 3, nu = 0.5 * 1 + 0.5 * 40 = 20.5,
    # sigma = sqrt(20.5 - 9); w = 2 / sigma, b = (1 * 5 + 0 - 3) / sigma.
    head = build_head(1, HeadSpec("value", 1, pop_art=True), MLPSpec())
    assert isinstance(head, PopArtHead)
    head.linear.load_state_dict({"weight": torch.tensor([[2.0]]), "bias": torch.tensor([5.0])})
    assert moments(head) == [0.0, 1.0, 1.0]
    assert head.decode(head(torch.tensor([[10.0]]))).item() == 25.0
    head.update_moments(torch.tensor([4.0, 8.0]), 0.5)
    deviation = 11.5**0.5
    assert moments(head) == pytest.approx([3.0, 20.5, deviation])
    assert head.linear.weight.item() == pytest.approx(2 / deviation)
    assert head.linear.bias.item() == pytest.approx(2 / deviation)
    assert head.decode(head(torch.tensor([[10.0]]))).item() == pytest.approx(25.0)
    assert head.encode(torch.tensor([3.0, 3.0 + deviation])).tolist() == pytest.approx([0.0, 1.0])


def test_moments_are_running_averages() -> None:
    head, targets = head_of(network_of()), torch.randn(50, 8, generator=torch.Generator().manual_seed(0)) * 7 + 100
    mean, second = 0.0, 1.0
    for batch in targets:
        head.update_moments(batch, 0.1)
        mean = 0.9 * mean + 0.1 * float(batch.double().mean())
        second = 0.9 * second + 0.1 * float((batch.double() ** 2).mean())
        assert moments(head) == pytest.approx([mean, second, (second - mean**2) ** 0.5], rel=1e-9)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e5])
@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_values_stay_while_the_moments_move(scale: float, noise: float) -> None:
    network = network_of(noise_deviation=noise)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(9, 4, generator=generator)
    with fresh_noise(network.noisy_layers, generator) if noise else torch.no_grad():
        before, normalised = network.decode(network(inputs)), network(inputs)
        for _ in range(20):
            head_of(network).update_moments(scale * (torch.randn(16, generator=generator) + 3), 0.05)
        outputs = network(inputs)
        assert not torch.allclose(outputs, normalised, rtol=1e-2)
        torch.testing.assert_close(network.decode(outputs), before, rtol=1e-4, atol=1e-5 * scale)


def test_constant_targets_meet_the_lower_bound() -> None:
    head = head_of(network_of(deviation_low=0.25))
    for _ in range(200):
        head.update_moments(torch.full((4,), 1e4), 0.2)
    assert float(head.deviation) == 0.25
    assert head.encode(torch.tensor([1e4 + 1])).tolist() == pytest.approx([4.0], rel=1e-3)
    assert all(value.isfinite().all() for value in head.state_dict().values())


def test_a_small_deviation_far_from_0_is_exact() -> None:
    # In float32 a second moment of 1e10 has steps of 1024, and a deviation of 1 would drown.
    head, targets = head_of(network_of()), torch.tensor([1e5 - 1, 1e5 + 1])
    for _ in range(400):
        head.update_moments(targets, 0.1)
    assert float(head.deviation) == pytest.approx(1.0, rel=1e-3)


def test_another_heads_moments_are_adopted_and_the_values_stay() -> None:
    one, other = network_of(), build_network(MLPSpec(widths=[6]), (4,), torch.float32, HeadSpec("q", 3, pop_art=True), 1)
    inputs = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    for _ in range(30):
        head_of(one).update_moments(torch.tensor([50.0, -30.0]), 0.1)
    before = other.decode(other(inputs))
    head_of(other).copy_moments(head_of(one))
    assert moments(head_of(other)) == moments(head_of(one))
    torch.testing.assert_close(other.decode(other(inputs)), before, rtol=1e-4, atol=1e-4)
    # Then halfway between the weights is halfway between the values.
    halfway = torch.lerp(head_of(one).linear.weight, head_of(other).linear.weight, 0.5)
    features = torch.rand(5, 6)
    expected = (features @ head_of(one).linear.weight.T + features @ head_of(other).linear.weight.T) / 2
    torch.testing.assert_close(features @ halfway.T, expected)


def test_a_part_of_a_network() -> None:
    network, ensemble = network_of(), network_of(members=2, kind="value", outputs=1)
    assert "head.mean" in network.state_dict()
    assert len(pop_art_heads(ensemble)) == 2
    assert pop_art_heads(build_network(MLPSpec(), (4,), torch.float32, HeadSpec("q", 3), 0)) == []
    assert [consumer.weight.tensor for consumer in network.units.layers[-1].consumers] == ["head.linear.weight"]
    pair = build_head(6, HeadSpec("policy", 2, second=HeadSpec("value", 1, pop_art=True)), MLPSpec())
    assert [type(head) for head in pop_art_heads(pair)] == [PopArtHead]
    assert pair(torch.zeros(3, 6)).shape == (3, 3)


@pytest.mark.parametrize("second", [False, True])
def test_a_head_drawn_again_keeps_its_moments(second: bool) -> None:
    value = HeadSpec("value", 1, pop_art=True)
    spec = HeadSpec("gaussian", 2, second=value) if second else value
    network = build_network(MLPSpec(widths=[6]), (4,), torch.float32, spec, 0)
    own = {name for name, _ in network.named_parameters() if name.startswith("head")}
    assert set(network.blocks[-1].parameters) == own
    assert network.blocks[-1].buffers == ()


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ({"dueling": True}, "pop_art normalises the outputs of a plain q or value head, not dueling q"),
        ({"kind": "policy"}, "pop_art normalises the outputs of a plain q or value head, not policy"),
        ({"deviation_low": 0.0}, "head.deviation_low=0.0 must be at least 1e-30"),
    ],
)
def test_refusals(head: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        network_of(**head)


def test_frozen_companions_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^plasticity_injection does not work with pop_art"):
        build_network(MLPSpec(injected_layers=1), (4,), torch.float32, HeadSpec("q", 3, pop_art=True), 0)
