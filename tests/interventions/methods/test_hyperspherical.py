"""Rows held at the length they started with."""

import pytest
import torch
from torch import Tensor

from plasticity.agents.parts import PartBuilder
from plasticity.interventions.methods.hyperspherical import Hyperspherical, project_rows, row_lengths
from plasticity.networks.spec import HeadSpec, NetworkSpec
from plasticity.networks.torsos.feedforward import ConvSpec, MLPSpec
from plasticity.networks.torsos.hyperspherical import SimbaV2Spec
from plasticity.optimizers.factory import OptimizerSettings
from plasticity.updates.updater import Updater

SIMBA = SimbaV2Spec(widths=[6], residual_blocks=1, initialiser="orthogonal")
CONV = ConvSpec(widths=[5], channels=[4])


def part_of(spec: NetworkSpec, shape: tuple[int, ...] = (3,), **settings: object) -> Updater:
    methods = {"hyperspherical": lambda: Hyperspherical(**settings)}  # type: ignore[arg-type]
    optimizer = OptimizerSettings(learning_rate=0.1)
    return PartBuilder(spec, shape, torch.float32, optimizer, methods)("critic", HeadSpec("value", 2))


def train(part: Updater, updates: int) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(updates):
        outputs = part.forward(torch.randn(16, *part.network.input_shape, generator=generator))
        part.step((outputs - 3).square().mean(), None)


def rows(network: torch.nn.Module) -> dict[str, list[float]]:
    """Lengths by a formula of its own."""
    named = {name: value for name, value in network.named_parameters() if value.ndim > 1}
    return {name: [float(row.square().sum() ** 0.5) for row in value.detach()] for name, value in named.items()}


def test_a_projection_by_hand() -> None:
    weight = torch.tensor([[3.0, 4.0], [0.0, 0.0], [6.0, 8.0], [1.0, 1.0]])
    assert row_lengths(weight)[:3].tolist() == [[5.0], [0.0], [10.0]]
    project_rows(weight, torch.tensor([[1.0], [1.0], [20.0], [0.0]]))
    assert weight.flatten().tolist() == pytest.approx([0.6, 0.8, 0.0, 0.0, 12.0, 16.0, 1.0, 1.0])


def test_all_that_feeds_a_convolutions_unit_is_one_row() -> None:
    weight = torch.zeros(2, 2, 1, 2)
    weight[0] = torch.tensor([1.0, 2.0, 2.0, 4.0]).view(2, 1, 2)
    assert row_lengths(weight).shape == (2, 1, 1, 1)
    assert row_lengths(weight).flatten().tolist() == [5.0, 0.0]


@pytest.mark.parametrize("output", [True, False])
@pytest.mark.parametrize(("spec", "shape"), [(SIMBA, (3,)), (CONV, (2, 6, 5))], ids=["simba_v2", "conv"])
def test_rows_keep_their_lengths_and_point_where_the_step_left_them(
    spec: NetworkSpec, shape: tuple[int, ...], output: bool
) -> None:
    part = part_of(spec, shape, output=output)
    start = rows(part.network)
    if spec is SIMBA:
        assert [length for lengths in start.values() for length in lengths] == pytest.approx([1.0] * 44)
    stepped: dict[str, Tensor] = {}
    step = part.optimizer.step

    def stepping() -> None:
        step()
        stepped.update({name: value.detach().clone() for name, value in part.network.named_parameters()})

    part.optimizer.step = stepping  # type: ignore[method-assign]
    for _ in range(3):
        train(part, 1)
        for name, value in part.network.named_parameters():
            expected = stepped[name]
            if value.ndim > 1 and (output or not name.startswith("head")):
                assert rows(part.network)[name] == pytest.approx(start[name])
                assert not torch.equal(value, expected)
                factors = [length / float(row.square().sum() ** 0.5) for length, row in zip(start[name], expected, strict=True)]
                expected = torch.stack([factor * row for factor, row in zip(factors, expected, strict=True)])
            torch.testing.assert_close(value.detach(), expected, rtol=1e-6, atol=1e-7)


def test_the_schedule() -> None:
    part = part_of(MLPSpec(widths=[4]), every_updates=3)
    start, moved = rows(part.network), []
    for _ in range(6):
        train(part, 1)
        moved.append(rows(part.network)["head.linear.weight"] != pytest.approx(start["head.linear.weight"]))
    assert moved == [True, True, False, True, True, False]


def test_a_row_that_starts_as_zeros_may_grow() -> None:
    part = part_of(MLPSpec(widths=[4]))
    head = part.network.tensor("head.linear.weight")
    with torch.no_grad():
        head.zero_()
    part.interventions["hyperspherical"].attach(part.hooks.view("hyperspherical"))
    train(part, 2)
    assert bool(head.any())


def test_a_setting_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"^hyperspherical.every_updates=-1 must be at least 0$"):
        Hyperspherical(every_updates=-1)
