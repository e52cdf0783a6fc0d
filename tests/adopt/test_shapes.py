"""Units that look as if they had columns of their own and have not: every layer that is found is checked by its influence."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from plasticity.adopt.finding import Found, find_units
from plasticity.networks.units import UnitSlice


class Made(nn.Module):
    """A module of some layers and a function that is its forward."""

    def __init__(self, forward: Callable[[Any, Tensor], Any], **layers: nn.Module) -> None:
        super().__init__()
        self.function = forward
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, inputs: Tensor) -> Any:
        return self.function(self, inputs)


class Residual(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return input + super().forward(input)


class Named(nn.Linear):
    """Computes what nn.Linear computes."""


def found_in(module: nn.Module, inputs: Tensor) -> Found:
    return find_units(module.double(), inputs.double(), None)


def reasons(found: Found) -> dict[str, str]:
    return {each.name: each.reason for each in found.units.excluded}


def overwrite(module: nn.Module, slice_: UnitSlice, unit: int, value: float) -> None:
    tensor = dict(module.named_parameters())[slice_.tensor]
    mask = slice_.mask(torch.arange(slice_.units) == unit, tensor).expand_as(tensor)
    tensor.data[mask] = value


def require_columns_are_the_influence(module: nn.Module, inputs: Tensor, found: Found) -> None:
    """With its columns at zero nothing of a unit is left, and nothing of another is lost: it is as if its row were zero."""
    inputs = inputs.double()
    for layer in found.units.layers:
        for unit in (0, layer.units - 1):
            cut = deepcopy(module)
            for consumer in layer.consumers:
                overwrite(cut, consumer.weight, unit, 0.0)
            other, dead = deepcopy(cut), deepcopy(module)
            for rows in (*layer.weights, *layer.biases):
                overwrite(other, rows, unit, 3.0)
                overwrite(dead, rows, unit, 0.0)
            expected = cut(inputs)
            torch.testing.assert_close(other(inputs), expected, rtol=0, atol=1e-12)
            torch.testing.assert_close(dead(inputs), expected, rtol=0, atol=1e-12)


def vectors() -> Tensor:
    return torch.randn(6, 4)


LINES = torch.randn(5, 3, 10, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("index", "listed"),
    [(slice(None), True), (torch.tensor([1, 2, 3, 4, 5, 6, 7, 0]), False), ([7, 6, 5, 4, 3, 2, 1, 0], False)],
)
def test_an_index_that_may_change_the_order_of_units_leaves_them_alone(index: Any, listed: bool) -> None:
    module = Made(lambda s, x: s.b(functional.relu(s.a(x))[:, index]), a=nn.Linear(4, 8), b=nn.Linear(8, 2))
    found = found_in(module, vectors())
    assert found.units.names == (("a",) if listed else ())
    require_columns_are_the_influence(module, vectors(), found)


@pytest.mark.parametrize(("axis", "listed"), [(1, False), (2, True), (-1, True)])
def test_a_mean_over_channels_is_no_mean_over_positions(axis: int, listed: bool) -> None:
    """8 channels and 8 positions: both means have the same shape."""
    module = Made(lambda s, x: s.b(functional.relu(s.a(x)).mean(axis)), a=nn.Conv1d(3, 8, 3), b=nn.Linear(8, 2))
    found = found_in(module, LINES)
    assert found.units.names == (("a",) if listed else ())
    require_columns_are_the_influence(module, LINES, found)


def test_a_pool_that_takes_the_batch_for_units_leaves_them_alone() -> None:
    dense = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.MaxPool1d(2), nn.Linear(4, 2))
    assert reasons(found_in(dense, vectors())) == {"0": "pooled along its units"}
    wide = nn.MaxPool2d((3, 1), stride=1, padding=(1, 0))
    lines = nn.Sequential(nn.Conv1d(3, 8, 3), nn.ReLU(), wide, nn.Conv1d(8, 4, 3))
    assert reasons(found_in(lines, LINES)) == {"0": "pooled along its units"}
    proper = nn.Sequential(nn.Conv1d(3, 8, 3), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(8, 4, 3))
    found = found_in(proper, LINES)
    assert found.units.names == ("0",)
    require_columns_are_the_influence(proper, LINES, found)


def test_an_instance_norm_of_vectors_ties_units_together() -> None:
    module = nn.Sequential(nn.Linear(4, 8), nn.InstanceNorm1d(8, affine=True), nn.ReLU(), nn.Linear(8, 2))
    assert reasons(found_in(module, torch.randn(8, 4))) == {"0": "1 normalises it along another axis"}


def test_a_gain_with_an_entry_for_each_step_has_units_along_its_last_axis() -> None:
    module = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm((3, 8)), nn.ReLU(), nn.Linear(8, 2))
    (layer,) = found_in(module, torch.randn(5, 3, 4)).units.layers
    assert [norm.slice for norm in layer.norms] == [UnitSlice("1.weight", 1, 8), UnitSlice("1.bias", 1, 8)]
    images = nn.Sequential(nn.Conv1d(3, 8, 3), nn.LayerNorm((8, 8)), nn.ReLU(), nn.Conv1d(8, 2, 3))
    (layer,) = found_in(images, LINES).units.layers
    assert [norm.slice for norm in layer.norms] == [UnitSlice("1.weight", 0, 8), UnitSlice("1.bias", 0, 8)]


def test_columns_that_read_two_layers_belong_to_neither() -> None:
    module = Made(
        lambda s, x: s.c(functional.relu(s.a(x))) * s.c(functional.relu(s.b(x))),
        a=nn.Linear(4, 8),
        b=nn.Linear(4, 8),
        c=nn.Linear(8, 2),
    )
    reason = "c, which reads it, is called 2 times in one forward"
    assert reasons(found_in(module, vectors())) == {"a": reason, "b": reason}


def test_a_map_derived_from_linear_is_one_only_if_it_computes_the_same() -> None:
    same = nn.Sequential(Named(4, 8), nn.ReLU(), Named(8, 2))
    found = found_in(same, vectors())
    assert found.units.names == ("0",)
    require_columns_are_the_influence(same, vectors(), found)
    other = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), Residual(8, 8), nn.ReLU(), nn.Linear(8, 2))
    assert found_in(other, vectors()).units.names == ()


@pytest.mark.parametrize("kind", ["weight_norm", "spectral_norm"])
def test_units_of_a_weight_that_is_computed_from_others_are_left_alone(kind: str) -> None:
    made = getattr(nn.utils.parametrizations, kind)(nn.Linear(8, 6))
    module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), made, nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    found = found_in(module, vectors())
    assert found.units.names == ("4",)
    assert reasons(found) == {
        "0": "what reads it, 2.weight, is no parameter but computed from others",
        "2": "what makes it, 2.weight, is no parameter but computed from others",
    }


def test_a_weight_that_is_used_a_second_time_is_nobodys_own() -> None:
    """An autoencoder that decodes with the transposed weights of its encoder."""

    def forward(s: Any, x: Tensor) -> Tensor:
        hidden = functional.relu(s.b(functional.relu(s.a(x))))
        return functional.linear(functional.relu(functional.linear(hidden, s.b.weight.t())), s.a.weight.t())

    found = found_in(Made(forward, a=nn.Linear(4, 8), b=nn.Linear(8, 6)), vectors())
    assert found.units.names == ()
    assert reasons(found)["a"].startswith("what makes it, a.weight, is used outside of its module too")


def test_a_reader_behind_a_detached_value_is_a_reader() -> None:
    def forward(s: Any, x: Tensor) -> Any:
        hidden = functional.relu(s.a(x))
        return s.b(hidden), s.c(hidden.detach())

    module = Made(forward, a=nn.Linear(4, 8), b=nn.Linear(8, 2), c=nn.Linear(8, 3))
    found = found_in(module, vectors())
    assert [each.weight.tensor for each in found.units["a"].consumers] == ["b.weight", "c.weight"]
    require_columns_are_the_influence(module, vectors(), found)


@pytest.mark.parametrize("behind", [nn.Linear(8, 3), nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 3))])
def test_a_constant_activation_goes_to_the_bias_of_a_reader_that_it_moves_by_its_column(behind: nn.Module) -> None:
    """A unit that is 2 for every input: its column at zero and 2 x its column in the bias leave all as it was."""
    module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), behind, nn.ReLU(), nn.Linear(3, 2))
    (consumer,) = found_in(module, vectors()).units["0"].consumers
    if isinstance(behind, nn.Sequential):
        assert consumer.bias is None
        return
    assert consumer.bias == "2.bias"
    overwrite(module, UnitSlice("0.weight", 0, 8), 5, 0.0)
    overwrite(module, UnitSlice("0.bias", 0, 8), 5, 2.0)
    inputs = vectors().double()
    expected = module(inputs)
    assert isinstance(behind, nn.Linear)
    behind.bias.data += 2 * consumer.weight.reach(behind.weight.detach())[:, 5]
    overwrite(module, consumer.weight, 5, 0.0)
    torch.testing.assert_close(module(inputs), expected, rtol=0, atol=1e-12)


def test_a_transposed_convolution_takes_no_constant_into_its_bias() -> None:
    """With a stride each position gets another part of the kernel."""
    module = nn.Sequential(nn.Conv1d(3, 8, 3), nn.ReLU(), nn.ConvTranspose1d(8, 2, 3, stride=2))
    found = found_in(module, LINES)
    (consumer,) = found.units["0"].consumers
    assert (consumer.weight, consumer.bias) == (UnitSlice("2.weight", 0, 8), None)
    require_columns_are_the_influence(module, LINES, found)
