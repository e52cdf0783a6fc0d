from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from plasticity.agents.parts import PartBuilder
from plasticity.interventions.methods.parseval import (
    Parseval,
    add_parseval_gradient,
    hidden_weights,
    parseval_gradient,
    parseval_penalty,
)
from plasticity.interventions.surgery.resets import ResetPolicy, reset_units
from plasticity.networks.spec import HeadSpec, NetworkSpec
from plasticity.networks.torsos.feedforward import ConvSpec, MLPSpec
from plasticity.networks.torsos.residual import SimbaSpec
from plasticity.networks.torsos.resnet import ResNetSpec
from plasticity.networks.torsos.transformer import ViTSpec
from plasticity.optimizers.factory import OptimizerSettings
from plasticity.updates.updater import Updater

DUELING = HeadSpec("q", 2, dueling=True, stream_widths=(4,))
CASES: dict[str, tuple[NetworkSpec, tuple[int, ...], HeadSpec, list[str]]] = {
    "mlp": (
        MLPSpec(widths=[6, 4], normalisation=["layer"]),
        (3,),
        HeadSpec("q", 2),
        ["torso.layers.dense_1", "torso.layers.dense_2"],
    ),
    "conv": (
        ConvSpec(widths=[4], channels=[2], activations=["crelu"]),
        (1, 4, 4),
        HeadSpec("q", 2),
        ["torso.layers.conv_1", "torso.layers.dense_1"],
    ),
    "dueling": (
        MLPSpec(widths=[4]),
        (3,),
        DUELING,
        ["torso.layers.dense_1", "head.layers.value_1", "head.layers.advantage_1"],
    ),
}
SHAPES = {"wide": (4, 7), "tall": (6, 3), "conv": (4, 2, 3, 3)}


def build(case: str = "mlp", treated: bool = True, spec: dict[str, Any] | None = None, **settings: Any) -> Updater:
    own, inputs, head, _ = CASES[case]
    methods = {"parseval": lambda: Parseval(**settings)} if treated else {}
    return PartBuilder(replace(own, **(spec or {})), inputs, torch.float32, OptimizerSettings("adam", 0.02), methods)("q", head)


def loss_of(part: Updater, step: int) -> Tensor:
    inputs = torch.randn(6, *part.network.input_shape, generator=torch.Generator().manual_seed(step))
    return part.forward(inputs).square().mean()


def test_penalty_by_hand() -> None:
    # Rows (1, 2) and (3, 0): W W^T = [[5, 3], [3, 9]]; less 2 I: 9 + 9 + 9 + 49 = 76. In groups of one row: 9 + 49.
    weight = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
    assert parseval_penalty(weight, 2.0).item() == 76.0
    assert parseval_penalty(weight, 2.0, groups=2).item() == 58.0
    # Normalised, the rows have the inner product 3 / (sqrt(5) * 3): twice its square is 2 / 5.
    assert parseval_penalty(weight, 1.0, normalise_rows=True).item() == pytest.approx(0.4)


def test_gradient_by_hand() -> None:
    # 4 (W W^T - 2 I) W = 4 [[3, 3], [3, 7]] [[1, 2], [3, 0]] = 4 [[12, 6], [24, 6]].
    weight = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
    assert parseval_gradient(weight, 2.0).tolist() == [[48.0, 24.0], [96.0, 24.0]]


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_gradient_is_that_of_the_penalty(shape: tuple[int, ...], groups: int, normalise: bool) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0), requires_grad=True)
    rows = weight.flatten(1)
    if normalise:
        rows = rows / torch.norm(rows, dim=1).view(-1, 1)
    block = torch.block_diag(*[torch.ones(shape[0] // groups, shape[0] // groups)] * groups)
    naive = torch.norm(block * (rows @ rows.t()) - 2.0 * torch.eye(shape[0]), p="fro") ** 2
    torch.testing.assert_close(parseval_penalty(weight, 2.0, groups, normalise), naive)
    (expected,) = torch.autograd.grad(naive, weight)
    torch.testing.assert_close(parseval_gradient(weight.detach(), 2.0, groups, normalise), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_it_is_added_in_place(shape: tuple[int, ...], groups: int, channels_last: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    weight, gradient = torch.randn(2, *shape, generator=generator)
    if channels_last and len(shape) == 4:
        weight, gradient = (each.to(memory_format=torch.channels_last) for each in (weight, gradient))
    expected = gradient + 0.25 * parseval_gradient(weight, 2.0, groups)
    add_parseval_gradient(gradient, weight, 0.25, 2.0, groups)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-4)


def test_it_is_added_by_hand() -> None:
    # As above, 4 [[12, 6], [24, 6]] / 8 on top of 1.
    gradient = torch.ones(2, 2)
    add_parseval_gradient(gradient, torch.tensor([[1.0, 2.0], [3.0, 0.0]]), 0.125, 2.0)
    assert gradient.tolist() == [[7.0, 4.0], [13.0, 4.0]]


def test_rows_and_columns_of_a_tall_matrix_give_the_same_gradient() -> None:
    weight = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    rows, columns = parseval_penalty(weight, 2.0), parseval_penalty(weight.T, 2.0)
    assert (rows - columns).item() == pytest.approx(2.0**2 * (6 - 3), rel=1e-4)
    (by_rows,), (by_columns,) = (torch.autograd.grad(penalty, weight) for penalty in (rows, columns))
    torch.testing.assert_close(by_rows, by_columns, rtol=1e-4, atol=1e-4)


def test_orthogonal_rows_of_the_right_length_are_left_alone() -> None:
    weight = torch.nn.init.orthogonal_(torch.empty(4, 7), gain=2.0**0.5)
    assert parseval_gradient(weight, 2.0).abs().max() < 1e-4
    assert parseval_gradient(weight * 3, 1.0, normalise_rows=True).abs().max() < 1e-5
    assert parseval_gradient(weight * 3, 2.0).abs().max() > 1


def test_rows_of_zeros_have_no_gradient() -> None:
    weight = torch.eye(3, 4)
    weight[1] = 0
    for normalise in (False, True):
        gradient = parseval_gradient(weight, 2.0, normalise_rows=normalise)
        assert gradient.isfinite().all()
        assert (gradient[1] == 0).all()


@pytest.mark.parametrize(
    "settings",
    [{}, {"groups": 2, "reference_width": 0}, {"normalise_rows": True, "scale": 1.0}, {"diagonal": True}],
    ids=str,
)
@pytest.mark.parametrize("case", CASES)
def test_agrees_with_the_penalty_in_the_loss(case: str, settings: dict[str, Any]) -> None:
    treated = build(case, coefficient=1e-4, **settings)
    plain = build(case, treated=False, spec={"diagonal": settings.get("diagonal", False)})
    groups, scale = settings.get("groups", 1), settings.get("scale", 2.0)
    for step in range(5):
        treated.step(loss_of(treated, step), None)
        penalty = torch.zeros(())
        for path in CASES[case][3]:
            rows = plain.network.tensor(f"{path}.linear.weight").flatten(1)
            width = rows.shape[0]
            if settings.get("normalise_rows"):
                rows = rows / rows.norm(dim=1, keepdim=True)
            for group in rows.chunk(groups):
                term = (group @ group.T - scale * torch.eye(width // groups)).square().sum()
                penalty = penalty + term * (1.0 if "reference_width" in settings else (64 / width) ** 2)
        plain.step(loss_of(plain, step) + 1e-4 * penalty, None)
    for (name, value), other in zip(treated.network.named_parameters(), plain.network.parameters(), strict=True):
        torch.testing.assert_close(value, other, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("case", CASES)
def test_every_weight_but_those_onto_the_outputs(case: str) -> None:
    assert set(hidden_weights(build(case).network)) == {f"{path}.linear.weight" for path in CASES[case][3]}


def test_rows_become_orthogonal() -> None:
    part = build(coefficient=0.01, reference_width=0)
    weight = part.network.tensor("torso.layers.dense_2.linear.weight")
    for _ in range(400):
        part.step(part.forward(torch.ones(2, 3)).sum() * 0.0, None)
    torch.testing.assert_close(weight @ weight.T, 2 * torch.eye(4), rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"coefficient": -0.1}, r"parseval\.coefficient=-0\.1 must be at least 0"),
        ({"scale": -1.0}, r"parseval\.scale=-1\.0 must be at least 0"),
        ({"groups": 0}, r"parseval\.groups=0 must be at least 1"),
        ({"reference_width": -1}, r"parseval\.reference_width=-1 must be at least 0"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Parseval(**settings)


@pytest.mark.parametrize("case", CASES)
def test_diagonal_layers_are_behind_every_map_that_is_regularised_and_trained(case: str) -> None:
    part, without = build(case, diagonal=True), build(case)
    paths = CASES[case][3]
    wanted = {f"{path}.diagonal.{name}" for path in paths for name in ("weight", "bias")}
    names = {name for name, _ in part.network.named_parameters()}
    assert names - {name for name, _ in without.network.named_parameters()} == wanted
    assert set(hidden_weights(part.network)) == {f"{path}.linear.weight" for path in paths}  # they are not pulled themselves
    before = {name: part.network.tensor(name).detach().clone() for name in wanted}
    part.step(loss_of(part, 0), None)
    assert all(not torch.equal(part.network.tensor(name), before[name]) for name in wanted)


def test_rows_stay_of_one_length_where_the_diagonal_grows() -> None:
    """What the layer is for: a unit wants to be large, and its row must not."""
    lengths = []
    for diagonal in (False, True):
        part = build(diagonal=diagonal, coefficient=0.05, reference_width=0, spec={"normalisation": []})
        x = torch.randn(30, 3, generator=torch.Generator().manual_seed(0))
        for _ in range(300):
            part.step((part.forward(x) - 40 * x[:, :2].abs()).square().mean(), None)
        lengths.append(part.network.tensor("torso.layers.dense_2.linear.weight").norm(dim=1).max().item())
    assert lengths[1] < lengths[0]
    assert part.network.tensor("torso.layers.dense_2.diagonal.weight").max() > 1.5


def test_diagonal_layers_are_resumed() -> None:
    whole, resumed = build(diagonal=True), build(diagonal=True)
    for step in range(3):
        whole.step(loss_of(whole, step), None)
    resumed.load_state_dict(deepcopy(whole.state_dict()))
    for part in (whole, resumed):
        for step in range(3, 6):
            part.step(loss_of(part, step), None)
    assert all(torch.equal(one, two) for one, two in zip(whole.network.parameters(), resumed.network.parameters(), strict=True))


def test_a_reset_unit_has_a_new_diagonal_entry() -> None:
    part = build(diagonal=True)
    network = part.network
    with torch.no_grad():
        for name in network.norm_parameters:
            network.tensor(name).fill_(7.0)
    mask = torch.arange(6) == 2
    generator = torch.Generator().manual_seed(0)
    reset_units(network, part.optimizer, {"dense_1": mask}, ResetPolicy(), generator)
    path = "torso.layers.dense_1.diagonal"
    assert network.tensor(f"{path}.weight").tolist() == [7.0, 7.0, 1.0, 7.0, 7.0, 7.0]
    assert network.tensor(f"{path}.bias").tolist() == [7.0, 7.0, 0.0, 7.0, 7.0, 7.0]


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        (SimbaSpec(widths=[4]), r"torso\.embed\.0\.weight of network\.torso=simba"),
        (ViTSpec(widths=[4], patch_size=2), r"torso\.positions of network\.torso=vit"),
    ],
    ids=["simba", "vit"],
)
def test_torsos_with_maps_outside_hidden_layers_refuse_diagonal_layers(spec: NetworkSpec, name: str) -> None:
    methods = {"parseval": lambda: Parseval(diagonal=True)}
    builder = PartBuilder(spec, (1, 4, 4), torch.float32, OptimizerSettings(), methods)
    message = (
        rf"^parseval\.diagonal=true needs a diagonal layer behind every regularised map, and {name} has none; choose mlp, conv,"
    )
    with pytest.raises(ValueError, match=message):
        builder("q", HeadSpec("q", 2))


def test_a_resnet_has_them_behind_every_convolution() -> None:
    methods = {"parseval": lambda: Parseval(diagonal=True)}
    spec = ResNetSpec(channels=[3, 4], residual_blocks=1)
    network = PartBuilder(spec, (1, 6, 6), torch.float32, OptimizerSettings(), methods)("q", HeadSpec("q", 2)).network
    assert len(network.norm_parameters) == 2 * len(hidden_weights(network)) == 2 * (1 + 2 + 3)


def test_refusals() -> None:
    with pytest.raises(
        ValueError, match=r"^parseval\.groups=3 must divide the 4 units of torso\.layers\.dense_2\.linear\.weight$"
    ):
        build(groups=3)
    empty = PartBuilder(MLPSpec(widths=[]), (3,), torch.float32, OptimizerSettings(), {"parseval": Parseval})
    with pytest.raises(ValueError, match=r"^intervention parseval acts on hidden layers, and this network has none"):
        empty("q", HeadSpec("q", 2))
