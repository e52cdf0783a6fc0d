"""Networks to operate on: from the factory, and three by hand that the factory does not make."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from plasticity.agents.parts import PartBuilder
from plasticity.interventions.base import Intervention
from plasticity.networks.factory import build_network
from plasticity.networks.layers.initialisers import Initialiser
from plasticity.networks.network import Network
from plasticity.networks.spec import HeadSpec, LoadBalancingSpec
from plasticity.networks.taps import Taps
from plasticity.networks.torsos.feedforward import ConvSpec, MLPSpec
from plasticity.networks.units import Consumer, ExcludedUnits, UnitGraph, UnitLayer, UnitSlice
from plasticity.optimizers.factory import OptimizerSettings
from plasticity.optimizers.unit_adam import UnitAdam
from plasticity.updates.execution import Execution
from plasticity.updates.updater import Updater


class HandMade(nn.Module):
    """The three things that unit surgery needs of a network: ``units``, ``tensor`` and ``initialisers``."""

    units: UnitGraph

    def tensor(self, name: str) -> Tensor:
        return dict(self.named_parameters())[name]

    @property
    def initialisers(self) -> Mapping[str, Initialiser]:
        return {name: Initialiser("uniform", 0.5) for name, _ in self.named_parameters()}


def dense(name: str, module: str, units: int, *readers: str) -> UnitLayer:
    consumers = tuple(Consumer(UnitSlice(f"{reader}.weight", 1, units), f"{reader}.bias") for reader in readers)
    rows = UnitSlice(f"{module}.weight", 0, units), UnitSlice(f"{module}.bias", 0, units)
    return UnitLayer(name, units, "relu", 1, *rows, (), consumers)


class TwoHeads(HandMade):
    """A shared layer that a policy and a value read."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.policy, self.value = nn.Linear(3, 6), nn.Linear(6, 2), nn.Linear(6, 1)
        self.units = UnitGraph((dense("shared", "shared", 6, "policy", "value"),))

    def forward(self, x: Tensor) -> Tensor:
        h = self.shared(x).relu()
        return torch.cat([self.policy(h), self.value(h)], dim=1)


class ResidualBlock(HandMade):
    """x + conv(relu(conv(x))) between a stem and a head: the inner channels are units, the stream's are not."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 6, 3, padding=1)
        self.outer, self.head = nn.Conv2d(6, 4, 3, padding=1), nn.Linear(4, 2)
        layer = dense("inner", "inner", 6, "outer")
        self.units = UnitGraph((layer,), (ExcludedUnits("stream", 4, "each channel is the sum of the stem and the block"),))

    def forward(self, x: Tensor) -> Tensor:
        stream = self.stem(x.view(-1, 3, 1, 1).expand(-1, 3, 5, 5))
        stream = (stream + self.outer(self.inner(stream).relu())).relu()
        return self.head(stream.mean((2, 3)))


class TransformerMLP(HandMade):
    """norm, widen, relu, narrow, added to the stream, at each of four tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(3, 4), nn.LayerNorm(4)
        self.widen, self.narrow, self.head = nn.Linear(4, 6), nn.Linear(6, 4), nn.Linear(4, 2)
        self.units = UnitGraph((dense("mlp", "widen", 6, "narrow"),), (ExcludedUnits("stream", 4, "a residual stream"),))

    def forward(self, x: Tensor) -> Tensor:
        stream = self.embed(torch.stack([x, x + 1, x * 2, -x], dim=1))
        stream = stream + self.narrow(self.widen(self.norm(stream)).relu())
        return self.head(stream.mean(1))


HAND_MADE = {"two_heads": TwoHeads, "residual_block": ResidualBlock, "transformer_mlp": TransformerMLP}
BALANCE = LoadBalancingSpec()
FACTORY = {
    "mlp": (MLPSpec(widths=[6, 5]), (3,)),
    "mlp_crelu": (MLPSpec(widths=[6, 5], activations=["crelu"]), (3,)),
    "mlp_batch_norm": (MLPSpec(widths=[6, 5], normalisation=["batch"]), (3,)),
    "mlp_batch_norm_load_balancing": (MLPSpec(widths=[6, 5], normalisation=["batch"], load_balancing=BALANCE), (3,)),
    "mlp_diagonal": (MLPSpec(widths=[6, 5], diagonal=True), (3,)),
    "conv_diagonal_batch_norm": (
        ConvSpec(widths=[5], channels=[6], diagonal=True, normalisation=["batch"]),
        (2, 5, 5),
    ),
    "conv_conv_flatten_dense": (ConvSpec(widths=[5], channels=[6, 4], pools=[1, 2]), (2, 8, 8)),
    "conv_crelu_flatten_dense": (ConvSpec(widths=[5], channels=[6, 4], activations=["crelu"]), (2, 7, 7)),
    "conv_padded_batch_norm": (ConvSpec(widths=[5], channels=[6, 4], paddings=[1], normalisation=["batch"]), (2, 6, 6)),
    "conv_head": (ConvSpec(widths=[], channels=[6, 4]), (2, 6, 6)),
    "paired": (MLPSpec(widths=[6, 5]), (3,)),
    "dueling": (MLPSpec(widths=[6]), (3,)),
    "noisy_dueling_conv": (ConvSpec(widths=[], channels=[6]), (2, 5, 5)),
    "ensemble": (MLPSpec(widths=[6, 5]), (3,)),
    "ensemble_conv_batch_norm": (ConvSpec(widths=[5], channels=[6], normalisation=["batch"]), (2, 5, 5)),
}
ATOMS = {"bins": 5, "low": -1.0, "high": 1.0}
PAIR = HeadSpec("gaussian", 2, second=HeadSpec("categorical", 1, **ATOMS))
HEADS = {
    "paired": (PAIR, 1),
    "dueling": (HeadSpec("q", 3, dueling=True, stream_widths=(6, 5)), 1),
    "noisy_dueling_conv": (HeadSpec("categorical", 3, **ATOMS, dueling=True, stream_widths=(5,), noise_deviation=0.5), 1),
    "ensemble": (HeadSpec("value", 1), 2),
    "ensemble_conv_batch_norm": (HeadSpec("categorical", 1, **ATOMS), 2),
}


@dataclass(frozen=True)
class Patient:
    """A network, its inputs and an optimizer that has taken a few steps."""

    network: Network
    inputs: Tensor
    optimizer: Optimizer
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(5))

    def train(self, steps: int) -> None:
        self.network.train()
        for step in range(steps):
            self.optimizer.zero_grad()
            (self.network(self.inputs).square().mean() + step).backward()
            self.optimizer.step()
        self.network.eval()

    @torch.no_grad()
    def outputs(self) -> Tensor:
        return self.network(self.inputs)

    def values(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self.network.state_dict().items()}

    def every_other(self) -> dict[str, Tensor]:
        """Chooses the units 1, 3, ... of every layer."""
        return {layer.name: torch.arange(layer.units) % 2 == 1 for layer in self.network.units.layers}

    def touched(self, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A boolean tensor for every tensor of the network: the entries that a full reset of these units may write."""
        touched = {name: torch.zeros(value.shape, dtype=torch.bool) for name, value in self.network.state_dict().items()}
        for name, mask in masks.items():
            layer = self.network.units[name]
            outgoing = [slice_ for consumer in layer.consumers for slice_ in consumer.slices]
            for slice_ in [*layer.weights, *layer.biases, *(n.slice for n in layer.norms), *outgoing]:
                touched[slice_.tensor] |= slice_.mask(mask, touched[slice_.tensor])
        return touched


Admit = Callable[..., Patient]


def _adam(parameters: list[nn.Parameter]) -> Optimizer:
    return UnitAdam(parameters, lr=1e-2, fused=True)


@pytest.fixture
def admit() -> Admit:
    """Makes a patient by the name of its network, trained for ``steps`` steps."""

    def make(name: str, optimizer: Callable[[list[nn.Parameter]], Optimizer] = _adam, steps: int = 3) -> Patient:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            if name in HAND_MADE:
                network, shape = HAND_MADE[name](), (3,)
            else:
                spec, shape = FACTORY[name]
                head, members = HEADS.get(name, (HeadSpec("regression", 3), 1))
                network = build_network(spec, shape, torch.float32, head, 0, members)
                for layer in network.noisy_layers:  # noise that stays
                    layer.noise = (torch.randn(layer.in_features), torch.randn(layer.out_features))
            inputs = torch.randn(8, *shape)
        patient = Patient(network, inputs, optimizer(list(network.parameters())))
        patient.train(steps)
        return patient

    return make


@pytest.fixture(params=[*FACTORY, *HAND_MADE])
def patient(request: pytest.FixtureRequest, admit: Admit) -> Patient:
    """One patient after the other."""
    return admit(request.param)


# Parts of agents, for methods that reset units


LAYOUTS = {
    "mlp": (MLPSpec(widths=[7, 6]), (3,), HeadSpec("regression", 2), 1),
    "crelu": (MLPSpec(widths=[5, 4], activations=["crelu"]), (3,), HeadSpec("regression", 2), 1),
    "conv": (ConvSpec(widths=[6], channels=[5, 4], pools=[1, 2]), (1, 8, 8), HeadSpec("regression", 2), 1),
    "conv_crelu": (ConvSpec(widths=[5], channels=[4], activations=["crelu"]), (1, 4, 4), HeadSpec("regression", 2), 1),
    "noisy_dueling": (MLPSpec(widths=[6]), (3,), HeadSpec("q", 3, dueling=True, stream_widths=(5,), noise_deviation=0.5), 1),
    "ensemble": (MLPSpec(widths=[6, 5]), (3,), HeadSpec("value", 1), 2),
}


class Inputs(NamedTuple):
    """A batch without targets."""

    inputs: Tensor


class Trained:
    """A part with a method, and its twin without, which is brought level with it before every update.

    Args:
        layout: Name of the network.
        method: Makes the method; None for a part without.
        optimizer: Name of the optimizer.
        learning_rate: Its step size.
        seed: The run's seed.
    """

    def __init__(
        self,
        layout: str,
        method: Callable[[], Intervention],
        optimizer: str = "adam",
        learning_rate: float = 0.02,
        seed: int = 0,
        autocast: torch.dtype | None = None,
    ) -> None:
        spec, inputs, head, members = LAYOUTS[layout]
        settings = OptimizerSettings(optimizer, learning_rate, momentum=0.9 if optimizer == "sgd" else 0.0)

        def build(methods: Mapping[str, Callable[[], Intervention]]) -> Updater:
            builder = PartBuilder(spec, inputs, torch.float32, settings, methods, seed, execution=Execution(autocast))
            return builder("q", head, None, members)

        self.part, self.twin = build({"method": method}), build({})
        self.method = self.part.interventions["method"]

    @property
    def layers(self) -> tuple[UnitLayer, ...]:
        return self.part.network.units.layers

    def inputs(self, step: int, count: int = 6) -> Tensor:
        generator = torch.Generator().manual_seed(step)
        return torch.randn(count, *self.part.network.input_shape, generator=generator)

    def update(self, step: int, count: int = 6) -> dict[str, Any]:
        """Updates both; the twin from the part's weights and optimizer state, so that it shows what the method changed."""
        inputs = self.inputs(step, count)
        self.twin.network.load_state_dict(self.part.network.state_dict())
        self.twin.optimizer.load_state_dict(deepcopy(self.part.optimizer.state_dict()))
        taps = Taps()
        with torch.no_grad():
            self.part.network(inputs, taps)
        self.post = taps.post
        self.twin.step((self.twin.forward(inputs) - 1.0).square().mean(), Inputs(inputs))
        return self.part.step((self.part.forward(inputs) - 1.0).square().mean(), Inputs(inputs))

    def fires(self, layer: UnitLayer, unit: int, level: float = 0.0) -> list[bool]:
        """Whether a unit is on, example by example and position by position, in either half."""
        post = self.post[layer.name]
        halves = [post[:, copy * layer.units + unit].flatten().tolist() for copy in range(layer.copies)]
        return [any(value > level for value in values) for values in zip(*halves, strict=True)]

    def activity(self, layer: UnitLayer, unit: int, magnitude: bool = True) -> float:
        """Mean |h|, or mean h, of a unit over everything."""
        post = self.post[layer.name]
        values = [v for copy in range(layer.copies) for v in post[:, copy * layer.units + unit].flatten().tolist()]
        return sum(abs(v) if magnitude else v for v in values) / len(values)

    def assert_reset(self, chosen: Mapping[str, list[int]], outgoing: str = "zero", bias: str = "zero") -> None:
        """Fresh rows, given biases and outgoing weights, no moments for these units; everything else as the twin has it."""
        incoming = {name: torch.zeros(value.shape, dtype=torch.bool) for name, value in self.part.network.named_parameters()}
        silenced = {name: torch.zeros_like(value) for name, value in incoming.items()}
        for layer in self.layers:
            mask = torch.tensor([unit in chosen[layer.name] for unit in range(layer.units)])
            for slice_ in (*layer.weights, *layer.biases):
                incoming[slice_.tensor] |= slice_.mask(mask, incoming[slice_.tensor])
            for consumer in layer.consumers if outgoing == "zero" else ():
                for slice_ in consumer.slices:
                    silenced[slice_.tensor] |= slice_.mask(mask, silenced[slice_.tensor])
        for name, value in self.part.network.named_parameters():
            other, fresh = self.twin.network.tensor(name), incoming[name] & ~silenced[name]
            touched = incoming[name] | silenced[name]
            assert torch.equal(value[~touched], other[~touched]), name
            assert not value[silenced[name]].any(), name
            if name.endswith("bias") and bias == "zero":
                assert not value[fresh].any(), name
            elif not name.endswith("deviation"):
                assert bool((value[fresh] != other[fresh]).all()), name
                assert bool((value[fresh].abs() <= self.part.network.initialisers[name].scale).all()), name
            state, twins = (part.optimizer.state.get(part.network.tensor(name), {}) for part in (self.part, self.twin))
            for moment in ("exp_avg", "exp_avg_sq"):
                if moment in state:
                    assert not state[moment][touched].any(), f"{moment} of {name}"
                    assert torch.equal(state[moment][~touched], twins[moment][~touched]), f"{moment} of {name}"


@pytest.fixture
def trained() -> type[Trained]:
    """Builds a part and its twin: ``trained("conv", lambda: Method(...))``."""
    return Trained


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> str:
    """One network after the other."""
    return str(request.param)
