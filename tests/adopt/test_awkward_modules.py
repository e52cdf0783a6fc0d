"""Twelve modules that no layer-by-layer list describes: what of each is found, left alone with its reason, or refused."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from plasticity.adopt.finding import Found, find_units
from plasticity.networks.units import UnitSlice


class Base(nn.Module):
    """Three maps and one ReLU for all."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(8, 6), nn.Linear(6, 2)
        self.act = nn.ReLU()


def found(module: nn.Module, example: Any = None, **more: Any) -> Found:
    return find_units(module, torch.randn(5, 4) if example is None else example, None, **more)


def reasons(told: Found) -> dict[str, str]:
    return {each.name: each.reason for each in told.units.excluded}


def columns(told: Found, layer: str) -> list[UnitSlice]:
    return [consumer.weight for consumer in told.units[layer].consumers]


def test_one_relu_for_two_layers() -> None:
    class Module(Base):
        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.c(self.act(self.b(self.act(self.a(x)))))
            return y

    told = found(Module())
    assert told.units.names == ("a", "b")
    assert [tap.module for tap in told.taps] == ["a", "b"]
    assert columns(told, "a") == [UnitSlice("b.weight", 1, 8)]
    assert told.heads == ("c",)


def test_a_part_of_the_units_is_read() -> None:
    class Module(Base):
        def forward(self, x: Tensor) -> Tensor:
            h = functional.relu(self.a(x))
            y: Tensor = self.c(functional.relu(self.b(h))) + h[:, :2]
            return y

    told = found(Module())
    assert told.units.names == ("b",)
    assert "only a part of its units is read at test_awkward_modules.py:" in reasons(told)["a"]


def test_tied_weights() -> None:
    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c, self.d = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2)
            self.c.weight = self.b.weight

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.d(torch.relu(self.c(torch.relu(self.b(torch.relu(self.a(x)))))))
            return y

    told = found(Module())
    assert told.units.names == ()
    assert "what reads it, b.weight, is shared with c.weight" in reasons(told)["a"]
    assert "what makes it, c.weight, is shared with b.weight" in reasons(told)["c"]


def test_attention() -> None:
    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.i, self.attention = nn.Linear(4, 8), nn.MultiheadAttention(8, 2, batch_first=True)
            self.wide, self.back, self.head = nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            z = functional.relu(self.i(x))
            z = z + self.attention(z, z, z)[0]
            z = z + self.back(functional.gelu(self.wide(z)))
            y: Tensor = self.head(z.mean(1))
            return y

    told = found(Module(), torch.randn(5, 3, 4))
    assert told.units.names == ("wide",)
    assert columns(told, "wide") == [UnitSlice("back.weight", 1, 16)]
    assert "read by attention, a MultiheadAttention" in reasons(told)["i"]
    assert "its units are summed with those of another path" in reasons(told)["back"]


def test_a_forward_that_decides_is_refused_with_its_line() -> None:
    class Module(Base):
        def forward(self, x: Tensor) -> Tensor:
            if x.shape[0] > 1:
                x = x * 2
            y: Tensor = self.c(self.b(self.a(x)))
            return y

    with pytest.raises(
        ValueError, match=r"Module cannot be traced at .*test_awkward_modules.py:\d+: it decides by values or shapes"
    ):
        found(Module())


def test_two_encoders_joined_and_a_dict_of_inputs() -> None:
    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.vector = nn.Conv2d(1, 3, 3), nn.Linear(4, 5)
            self.both, self.head = nn.Linear(3 * 4 + 5, 7), nn.Linear(7, 2)

        def forward(self, observation: dict[str, Tensor]) -> Tensor:
            image = functional.relu(self.conv(observation["image"])).flatten(1)
            joined = torch.cat([image, functional.relu(self.vector(observation["vector"]))], 1)
            y: Tensor = self.head(torch.tanh(self.both(joined)))
            return y

    told = found(Module(), {"image": torch.randn(5, 1, 4, 4), "vector": torch.randn(5, 4)})
    assert told.units.names == ("conv", "vector", "both")
    assert columns(told, "conv") == [UnitSlice("both.weight", 1, 3, (0,), 4)]
    assert columns(told, "vector") == [UnitSlice("both.weight", 1, 5, (12,), 1)]


def test_an_activation_in_place_is_recorded_before_it_overwrites() -> None:
    module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Linear(8, 2))
    told = found(module)
    assert told.units.names == ("0",)
    assert told.taps[0].nonlinearity.in_place
    from plasticity.adopt.recording import Recorder

    recorder = Recorder(module, told.taps)
    recorder.listening = True
    batch = torch.randn(6, 4)
    module(batch).sum().backward()
    taps, _ = recorder.take()
    expected = nn.functional.linear(batch, module[0].weight, module[0].bias)
    assert torch.equal(taps.pre["0"], expected)
    assert torch.equal(taps.post["0"], expected.relu())


def test_a_layer_that_a_frozen_head_reads() -> None:
    module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
    module[4].requires_grad_(False)
    told = found(module)
    assert told.units.names == ("0",)
    assert reasons(told) == {"2": "what reads it, 4.weight, is frozen"}


def test_another_optimizers_parameters() -> None:
    module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
    told = found(module, trained={id(each) for each in module[:3].parameters()})
    assert told.units.names == ("0",)
    assert "what reads it, 4.weight, is not trained by this optimizer" in reasons(told)["2"]


@pytest.mark.parametrize("behind", [False, True])
def test_batch_normalisation_on_either_side_of_the_activation(behind: bool) -> None:
    norm, relu = nn.BatchNorm1d(8), nn.ReLU()
    module = nn.Sequential(nn.Linear(4, 8), *((relu, norm) if behind else (norm, relu)), nn.Linear(8, 2))
    told = found(module)
    number = 2 if behind else 1
    expected = [(f"{number}.{name}", value) for name, value in (("weight", 1.0), ("bias", 0.0))]
    expected += [(f"{number}.running_mean", 0.0), (f"{number}.running_var", 1.0)]
    assert [(norm.slice.tensor, norm.fresh) for norm in told.units["0"].norms] == expected
    assert told.taps[0].module == ("0" if behind else "1")


def test_crelu_by_hand() -> None:
    class Module(Base):
        def __init__(self) -> None:
            super().__init__()
            self.b = nn.Linear(16, 6)

        def forward(self, x: Tensor) -> Tensor:
            z = self.a(x)
            y: Tensor = self.c(functional.relu(self.b(torch.cat([functional.relu(z), functional.relu(-z)], 1))))
            return y

    told = found(Module())
    assert (told.units["a"].activation, told.units["a"].copies) == ("crelu", 2)
    assert columns(told, "a") == [UnitSlice("b.weight", 1, 8, (0, 8), 1)]


def test_a_recurrent_layer() -> None:
    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.i, self.lstm = nn.Linear(4, 8), nn.LSTM(8, 6, batch_first=True)
            self.o, self.head = nn.Linear(6, 5), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            states, _ = self.lstm(functional.relu(self.i(x)))
            y: Tensor = self.head(functional.relu(self.o(states[:, -1])))
            return y

    told = found(Module(), torch.randn(5, 3, 4))
    assert told.units.names == ("o",)
    assert reasons(told) == {"i": "read by lstm, a LSTM"}


def test_actor_and_critic_are_used_as_the_user_says() -> None:
    class Agent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.actor = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))
            self.critic = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))

    told = find_units(Agent(), torch.randn(5, 4), lambda module, x: (module.actor(x), module.critic(x)))
    assert told.units.names == ("actor.0", "actor.2", "critic.0", "critic.2")
    assert told.heads == ("actor.4", "critic.4")
    with pytest.raises(ValueError, match="Agent has no forward that can be called with example=; say how it is used, forward="):
        found(Agent())


def test_a_wrong_example_is_a_line() -> None:
    module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    with pytest.raises(ValueError, match="the module failed on example=: mat1 and mat2 shapes cannot be multiplied"):
        found(module, torch.randn(5, 3))
    with pytest.raises(ValueError, match=r"example= has no batch axis: 2 gets a vector; give it one, example\[None\]"):
        found(module, torch.randn(4))
