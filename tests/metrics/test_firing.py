"""Metrics of firing over time, of load balancing, and of one side, on whole parts."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from plasticity.agents.parts import PartBuilder
from plasticity.metrics.catalogue import CATALOGUE
from plasticity.metrics.observer import MetricsObserver, MetricsSettings, observe
from plasticity.metrics.undefined import Undefined
from plasticity.metrics.view import View, view_part
from plasticity.networks.layers.activations import ACTIVATIONS
from plasticity.networks.spec import HeadSpec, LoadBalancingSpec, NetworkSpec
from plasticity.networks.torsos.feedforward import MLPSpec
from plasticity.networks.torsos.residual import SimbaSpec
from plasticity.networks.torsos.resnet import ResNetSpec
from plasticity.optimizers.factory import OptimizerSettings
from plasticity.updates.updater import Updater


def part_of(spec: NetworkSpec, inputs: tuple[int, ...] = (2,), members: int = 1) -> Updater:
    builder = PartBuilder(spec, inputs, torch.float32, OptimizerSettings("sgd", 0.0), {}, 0)
    return builder("q", HeadSpec("regression", 1), members=members)


@dataclass
class Seen:
    """An agent of one part that is always seen on the same inputs."""

    parts: dict[str, Updater]
    inputs: Tensor

    def sample_inputs(self, part: str, count: int, generator: torch.Generator) -> Tensor | None:
        return self.inputs


INPUTS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0], [0.0, 2.0]])
# z = (1, 1, 2, 2), (-1, -1, -1, -1), (1, -1, 2, -2): rates 1, 0 and one half.
WEIGHT, BIAS = [[1.0, 1.0], [0.0, 0.0], [1.0, -1.0]], [0.0, -1.0, 0.0]


def three_units(activation: str = "relu", **spec: Any) -> Updater:
    part = part_of(MLPSpec(widths=[3], activations=[activation], **spec))
    with torch.no_grad():
        part.network.tensor("torso.layers.dense_1.linear.weight").copy_(torch.tensor(WEIGHT))
        part.network.tensor("torso.layers.dense_1.linear.bias").copy_(torch.tensor(BIAS))
    return part


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_one_side_of_every_activation(activation: str) -> None:
    views = [view_part("q", three_units(activation), INPUTS)]
    for name, share in (("one_sided_fraction", 2 / 3), ("below_zero_fraction", 1 / 3)):
        values = CATALOGUE[name].measure(views)
        assert values.keys() == {"", "/q/dense_1"}
        for value in values.values():
            if ACTIVATIONS[activation].sided:
                assert float(value) == pytest.approx(share)  # type: ignore[arg-type]
            else:
                assert isinstance(value, Undefined)
                assert value.reason == f"{activation} does not bend about zero"


def take(part: Updater, inputs: Tensor, updates: int) -> None:
    for _ in range(updates):
        part.step(part.forward(inputs).sum(), None)


def test_averaged_rates_of_a_run_and_after_a_resume() -> None:
    agent = Seen({"q": three_units()}, INPUTS)
    settings = MetricsSettings(names=["averaged_firing_rate"], heatmaps=False, histograms=False)
    observer, resumed = MetricsObserver(settings, 0), MetricsObserver(settings, 0)
    assert float(observe(observer, View(0, 0, agent))["plasticity/averaged_firing_rate"]) == 0.5  # type: ignore[arg-type]
    take(agent.parts["q"], INPUTS, 3)
    first = observe(observer, View(3, 0, agent))["plasticity/averaged_firing_rate/q/dense_1"]
    # The rates average one half, and so do their averages. With equal inputs they do not: z = (1, -1, 1) on each.
    assert float(first) == pytest.approx(0.5)  # type: ignore[arg-type]
    assert observe(observer, View(3, 0, agent))["plasticity/averaged_firing_rate/q/dense_1"] == first  # at the same update
    resumed.load_state_dict(observer.state_dict())
    agent.inputs = INPUTS[:1]
    take(agent.parts["q"], INPUTS, 2)
    second = [observe(seer, View(5, 0, agent))["plasticity/averaged_firing_rate"] for seer in (observer, resumed)]
    assert second[0] == second[1]
    kept = 0.99**3
    third = [1 - 0.5 * kept, 0.5 * kept, 0.5]  # of each unit at update 3
    by_hand = [0.99**2 * average + (1 - 0.99**2) * rate for average, rate in zip(third, (1.0, 0.0, 1.0), strict=True)]
    assert float(second[0]) == pytest.approx(sum(by_hand) / 3, rel=1e-6)  # type: ignore[arg-type]


def test_a_layer_that_overflows_keeps_its_average() -> None:
    agent = Seen({"q": three_units()}, INPUTS[:1])
    observer = MetricsObserver(MetricsSettings(names=["averaged_firing_rate"], heatmaps=False, histograms=False), 0)
    take(agent.parts["q"], INPUTS, 1)
    before = observe(observer, View(1, 0, agent))["plasticity/averaged_firing_rate"]
    agent.inputs = torch.full((1, 2), float("inf"))
    assert isinstance(observe(observer, View(2, 0, agent))["plasticity/averaged_firing_rate"], Undefined)
    agent.inputs = INPUTS[:1]
    assert observe(observer, View(3, 0, agent))["plasticity/averaged_firing_rate"] == before


def test_load_balancing_by_hand() -> None:
    # Rates 1, 0 and 1/2 in every batch, decay 0.5 from 0.5: averages .75, .25, .5, then .875, .125, .5. Offsets move by 0.1
    # outside 0.3 to 0.6: down and up twice each, so that the mean is 0 and the mean size 0.4 / 3.
    part = three_units(load_balancing=LoadBalancingSpec(low=0.3, high=0.6, step_size=0.1, decay=0.5))
    take(part, INPUTS, 2)
    views = [view_part("q", part, INPUTS), view_part("plain", three_units(), INPUTS)]
    expected = {"load_balancing_rate": 0.5, "load_balancing_offset": 0.0, "load_balancing_offset_size": 0.4 / 3}
    for name, value in expected.items():
        assert CATALOGUE[name].measure(views) == pytest.approx({"": value, "/q/dense_1": value}, abs=1e-6)
        (alone,) = CATALOGUE[name].measure(views[1:]).values()
        assert isinstance(alone, Undefined)
        assert alone.reason == "the network has no load-balancing layer"


@pytest.mark.parametrize(
    ("spec", "inputs", "members"),
    [
        (MLPSpec(widths=[3, 5], load_balancing=LoadBalancingSpec()), (2,), 1),
        (MLPSpec(widths=[3, 5], load_balancing=LoadBalancingSpec()), (2,), 2),
        (ResNetSpec(channels=[2, 3], residual_blocks=1, load_balancing=LoadBalancingSpec()), (1, 4, 4), 1),
    ],
)
def test_every_balanced_layer_is_named_as_its_activations_are(spec: NetworkSpec, inputs: tuple[int, ...], members: int) -> None:
    part = part_of(spec, inputs, members)
    data = torch.randn(8, *inputs, generator=torch.Generator().manual_seed(0))
    view = view_part("q", part, data)
    take(part, data, 3)
    values = CATALOGUE["load_balancing_rate"].measure([view])
    assert values.keys() == {"", *(f"/q/{layer.name}" for layer in view.layers)}
    # All buffers of that name in one loop over the state, weighted by units.
    rates = [value for name, value in part.network.state_dict().items() if name.endswith("balance.firing_rate")]
    assert float(values[""]) == pytest.approx(float(torch.cat(rates).mean()))  # type: ignore[arg-type]
    assert float(values[""]) != 0.5  # type: ignore[arg-type]


@pytest.mark.parametrize(("pooled", "units"), [(False, 12), (True, 18)])
def test_streams_count_if_asked(pooled: bool, units: int) -> None:
    # One block of 12 units, and a stream of 6 sums.
    part = part_of(SimbaSpec(widths=[6], expansion=2, residual_blocks=1), (3,))
    agent = Seen({"q": part}, torch.randn(9, 3, generator=torch.Generator().manual_seed(0)))
    settings = MetricsSettings(names=["active_fraction"], pool_streams=pooled)
    logs = observe(MetricsObserver(settings, 0), View(1, 0, agent))
    block, stream = (float(logs[f"plasticity/active_fraction/q/{name}"]) for name in ("block_1", "stream"))  # type: ignore[arg-type]
    expected = (12 * block + (units - 12) * stream) / units
    assert block < stream == 1.0
    assert float(logs["plasticity/active_fraction"]) == pytest.approx(expected)  # type: ignore[arg-type]
