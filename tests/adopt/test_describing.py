"""Units that the user describes, of a module that cannot be traced."""

import pytest
import torch
from torch import Tensor, nn

from plasticity.adopt import UnitsOf, adopt, measure
from plasticity.adopt.describing import described
from plasticity.networks.units import UnitSlice


class Deciding(nn.Module):
    """Cannot be traced: it decides by its input."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.dense, self.head = nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Linear(12, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        if float(x.sum()) > 1e9:
            x = x / 2
        h = torch.relu(self.norm(self.conv(x))).flatten(1)
        y: Tensor = self.head(torch.tanh(self.dense(h)))
        return y


UNITS = [UnitsOf("conv", "relu", ["dense"], norms=["norm"], positions=4), UnitsOf("dense", "tanh", ["head"])]


def test_a_description_is_a_unit_graph() -> None:
    told = described(Deciding(), UNITS, None)
    assert told.units.names == ("conv", "dense")
    assert told.units["conv"].consumers[0].weight == UnitSlice("dense.weight", 1, 3, (0,), 4)
    assert [norm.slice.tensor for norm in told.units["conv"].norms] == [
        f"norm.{name}" for name in ("weight", "bias", "running_mean", "running_var")
    ]
    assert [tap.module for tap in told.taps] == ["norm", "dense"]
    assert told.heads == ("head",)


def test_methods_and_metrics_work_on_it() -> None:
    module, batch = Deciding(), torch.randn(8, 1, 4, 4)
    with pytest.raises(ValueError, match="or say by units= what its units are"):
        measure(module, batch, ["dormant_fraction"])
    values = measure(module, batch, ["dormant_fraction"], units=UNITS)
    assert set(values) == {"dormant_fraction", "dormant_fraction/conv", "dormant_fraction/dense"}
    optimizer = adopt(module, torch.optim.SGD(module.parameters(), 0.1), ["continual_backprop"], batch, units=UNITS)
    optimizer.zero_grad()
    module(batch).sum().backward()
    optimizer.step()
    assert optimizer.methods["continual_backprop"].state["conv/age"].tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("units", "told"),
    [
        ([UnitsOf("cnv", "relu", ["dense"])], "units=: cnv is no map of the module; it has conv, dense, head"),
        (
            [UnitsOf("conv", "relu", ["dense"], positions=5)],
            r"units=: dense has 12 inputs, and conv has 3 units x 1 x positions=5",
        ),
        ([UnitsOf("conv", "rleu", ["dense"])], "rleu"),
        (
            [UnitsOf("conv", "relu", ["dense"], norms=["head"])],
            "units=: head is no normalisation layer of the module; it has norm",
        ),
        ([("conv", "relu")], r"units= must be a list of UnitsOf\(map, activation, readers\)"),
    ],
)
def test_a_wrong_description_is_a_line(units: list[UnitsOf], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        described(Deciding(), units, None)
