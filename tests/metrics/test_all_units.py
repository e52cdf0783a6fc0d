"""Pooled values count every unit behind a non-linearity, those that cannot be reset one by one included."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from plasticity.agents.parts import PartBuilder
from plasticity.metrics.catalogue import CATALOGUE
from plasticity.metrics.log_values import Heatmap
from plasticity.metrics.metric import of_units
from plasticity.metrics.observer import MetricsObserver, MetricsSettings
from plasticity.metrics.view import View, view_part
from plasticity.networks.spec import HeadSpec, NetworkSpec
from plasticity.networks.torsos.residual import BroSpec, SimbaSpec
from plasticity.networks.torsos.resnet import ResNetSpec
from plasticity.optimizers.factory import OptimizerSettings
from plasticity.updates.updater import Updater


def part_of(spec: NetworkSpec, inputs: tuple[int, ...] = (2, 4, 4)) -> Updater:
    return PartBuilder(spec, inputs, torch.float32, OptimizerSettings("sgd", 0.1), {}, 0)("q", HeadSpec("regression", 1))


@dataclass
class Seen:
    """An agent of which there is nothing but parts, and images."""

    parts: dict[str, Updater]

    def sample_inputs(self, part: str, count: int, generator: torch.Generator) -> Tensor | None:
        return images()


def images(count: int = 6, inputs: tuple[int, ...] = (2, 4, 4)) -> Tensor:
    return torch.randn(count, *inputs, generator=torch.Generator().manual_seed(0))


def pooled_units(spec: NetworkSpec, inputs: tuple[int, ...] = (2, 4, 4)) -> float:
    views = [view_part("q", part_of(spec, inputs), images(inputs=inputs))]
    return float(of_units(views, lambda layer: layer.scores, lambda units: float(len(units)))[""])


@pytest.mark.parametrize(
    ("channels", "units"),
    # Of two blocks a stage: 8 of the stem, 2 x 8 and 2 x 16 inner ones, as many of sums; 64 and 2 x 2 (64 + 128 + 256 + 512).
    [([8, 16], 8 + 48 + 48), ([64, 128, 256, 512], 64 + 1920 + 1920)],
)
def test_every_relu_of_a_residual_network_counts(channels: list[int], units: int) -> None:
    assert units in (104, 3904)
    assert pooled_units(ResNetSpec(widths=[], channels=channels)) == units


def test_the_heatmap_counts_them_too() -> None:
    agent = Seen({"q": part_of(ResNetSpec(widths=[], channels=[8, 16]))})
    observer = MetricsObserver(MetricsSettings(names=["dormant_fraction"], heatmaps=True), 0)
    logs = observer.measure(View(1, 0, agent))
    heatmap = logs["plasticity/firing_rate_heatmap"]
    assert isinstance(heatmap, Heatmap)
    assert heatmap.counts.tolist() == [104]


def test_dead_and_linearised_units_of_the_stream_by_hand() -> None:
    # One block of two channels. A weight of 0 leaves the bias: z is that on every input and position.
    #   stem    z = (-1, 2): one dead, one linearised, h = (0, 2)
    #   block_1 z = (-1, 3): one dead, one linearised
    #   sum     z = (-5, 1) + h of the stem = (-5, 3): one dead, one linearised
    part = part_of(ResNetSpec(widths=[], channels=[2], residual_blocks=1))
    biases = {"stem": (-1.0, 2.0), "layers.block_1.inner": (-1.0, 3.0), "layers.block_1.outer": (-5.0, 1.0)}
    with torch.no_grad():
        for name, values in biases.items():
            part.network.tensor(f"torso.{name}.linear.weight").zero_()
            part.network.tensor(f"torso.{name}.linear.bias").copy_(torch.tensor(values))
    views = [view_part("q", part, images())]
    layers = {f"/q/{name}": 0.5 for name in ("stem", "block_1", "block_1_sum")}
    for metric in ("dead_fraction", "linearised_fraction", "dormant_fraction", "firing_rate", "active_fraction"):
        assert CATALOGUE[metric].measure(views) == {"": 0.5} | layers, metric
    with torch.no_grad():  # both units of the sum dead, and nothing else changed: 4 of 6
        part.network.tensor("torso.layers.block_1.outer.linear.bias").fill_(-5.0)
    views = [view_part("q", part, images())]
    assert float(CATALOGUE["dead_fraction"].measure(views)[""]) == pytest.approx(4 / 6)
    assert float(CATALOGUE["linearised_fraction"].measure(views)[""]) == pytest.approx(2 / 6)


def test_the_embedding_of_bronet_counts_and_a_mere_sum_does_not() -> None:
    # Embedding 6 units, one block of 12, and a stream of 6 sums without a non-linearity.
    spec = BroSpec(widths=[6], expansion=2, residual_blocks=1)
    views = [view_part("q", part_of(spec, (3,)), images(inputs=(3,)))]
    assert [(layer.name, layer.pooled) for layer in views[0].layers] == [("embed", True), ("block_1", True), ("stream", False)]
    assert torch.equal(views[0].layers[0].post, views[0].layers[0].pre.relu())
    assert pooled_units(spec, (3,)) == 18
    assert pooled_units(SimbaSpec(widths=[6], expansion=2, residual_blocks=1), (3,)) == 12
