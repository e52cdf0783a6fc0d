"""Plain PyTorch modules that are what networks of the testbed are, and updates of both."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from plasticity.adopt import AdoptedOptimizer, adopt
from plasticity.interventions.base import Intervention
from plasticity.networks.factory import build_network
from plasticity.networks.network import Network
from plasticity.networks.spec import HeadSpec, NetworkSpec
from plasticity.networks.torsos.feedforward import ConvSpec, MLPSpec
from plasticity.networks.torsos.resnet import ResNetSpec
from plasticity.optimizers.unit_adam import UnitAdam
from plasticity.updates.updater import Updater


class Examples(NamedTuple):
    inputs: Tensor
    targets: Tensor


class Dueling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(6, 20)
        self.value_1, self.advantage_1 = nn.Linear(20, 12), nn.Linear(20, 12)
        self.value, self.advantage = nn.Linear(12, 1), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.body(x))
        value = self.value(torch.relu(self.value_1(h)))
        advantage = self.advantage(torch.relu(self.advantage_1(h)))
        return value + (advantage - advantage.mean(1, keepdim=True))


class Block(nn.Module):
    def __init__(self, inputs: int, channels: int, stride: int) -> None:
        super().__init__()
        self.inner, self.inner_norm = nn.Conv2d(inputs, channels, 3, stride, 1), nn.BatchNorm2d(channels)
        self.outer, self.outer_norm = nn.Conv2d(channels, channels, 3, 1, 1), nn.BatchNorm2d(channels)
        changes = stride != 1 or inputs != channels
        self.skip = nn.Sequential(nn.Conv2d(inputs, channels, 1), nn.BatchNorm2d(channels)) if changes else nn.Identity()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        passed = self.skip(x[:, :, :: self.stride, :: self.stride])  # as the testbed makes strided convolutions of one pixel
        z = self.outer_norm(self.outer(functional.relu(self.inner_norm(self.inner(x)))))
        return functional.relu(z + passed)


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(1, 4, 3, 1, 1), nn.BatchNorm2d(4)
        self.blocks = nn.Sequential(Block(4, 4, 1), Block(4, 6, 2))
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.blocks(functional.relu(self.stem_norm(self.stem(x))))
        return self.head(h.mean((2, 3)))


@dataclass(frozen=True)
class Kind:
    """A network of the testbed, and the same in plain PyTorch."""

    spec: NetworkSpec
    shape: tuple[int, ...]
    head: HeadSpec
    plain: Callable[[], nn.Module]


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 3))


def _conv() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 5, 2), nn.ReLU(), nn.MaxPool2d(1)),
        *(nn.Flatten(), nn.Linear(20, 12), nn.ReLU(), nn.Linear(12, 3)),
    )


_REGRESSION = HeadSpec("regression", 3)
KINDS = {
    "mlp": Kind(MLPSpec(widths=[20, 16]), (6,), _REGRESSION, _mlp),
    "conv": Kind(ConvSpec(channels=[4, 5], kernel_sizes=[3, 2], pools=[2, 1], widths=[12]), (1, 8, 8), _REGRESSION, _conv),
    "dueling": Kind(MLPSpec(widths=[20]), (6,), HeadSpec("q", 3, dueling=True, stream_widths=(12,)), Dueling),
    "resnet": Kind(ResNetSpec(channels=[4, 6], residual_blocks=1, normalisation=["batch"]), (1, 8, 8), _REGRESSION, ResNet),
}


def examples(shape: Sequence[int], count: int, rows: int = 32) -> list[Examples]:
    generator = torch.Generator().manual_seed(0)
    return [
        Examples(torch.randn(rows, *shape, generator=generator), torch.randn(rows, 3, generator=generator)) for _ in range(count)
    ]


@dataclass
class Pair:
    """The same network twice: in the testbed's updater, and adopted."""

    updater: Updater
    module: nn.Module
    optimizer: AdoptedOptimizer
    method: Intervention

    def update(self, batch: Examples) -> None:
        self.updater.update(lambda outputs, b: ((outputs - b.targets).square().mean(), {}), batch)

        def closure() -> Tensor:
            self.optimizer.zero_grad()
            loss = (self.module(batch.inputs) - batch.targets).square().mean()
            if (type(self.method).loss, type(self.method).term) != (Intervention.loss, Intervention.term):
                self.optimizer.backward(loss)
            else:
                loss.backward()
            return loss

        if type(self.method).needs_recompute:
            self.optimizer.step(closure)
        else:
            closure()
            self.optimizer.step()

    def difference(self) -> float:
        ours, theirs = self.updater.network.state_dict().values(), self.module.state_dict().values()
        assert len(ours) == len(theirs)
        return max(float((a.double() - b.double()).abs().max()) for a, b in zip(ours, theirs, strict=True))


def paired(name: str, method: Intervention, bound: float | None = 1.0) -> Pair:
    """Makes both, with the same weights, initial distributions and seed."""
    kind = KINDS[name]
    network: Network = build_network(kind.spec, kind.shape, torch.float32, kind.head, 0)
    module = kind.plain()
    named = list(network.state_dict().items())
    module.load_state_dict({key: value for key, (_, value) in zip(module.state_dict(), named, strict=True)})
    trained = list(network.named_parameters())
    initialisers = {
        own: network.initialisers[theirs] for (own, _), (theirs, _) in zip(module.named_parameters(), trained, strict=True)
    }
    updater = Updater(
        "part", network, UnitAdam(network.parameters(), lr=1e-3, fused=True), {method.name: deepcopy(method)}, 0, bound
    )
    base = torch.optim.Adam(module.parameters(), lr=1e-3, fused=True)
    optimizer = adopt(
        module,
        base,
        [method],
        torch.zeros(2, *kind.shape),
        initialisers=initialisers,
        max_gradient_norm=bound,
        part="part",
    )
    return Pair(updater, module, optimizer, method)
