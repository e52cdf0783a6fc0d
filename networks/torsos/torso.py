"""Torsos: what lies between an input and a feature vector."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from plasticity.networks.heads.head import Readers
from plasticity.networks.layers.initialisers import Initialiser
from plasticity.networks.layers.noisy import map_initialisers
from plasticity.networks.layers.normalisation import NORMS
from plasticity.networks.taps import Taps
from plasticity.networks.torsos.hidden import HiddenLayer
from plasticity.networks.units import ExcludedUnits, UnitLayer


@dataclass(frozen=True)
class Stage:
    """What is reset together, and its own units if it has any.

    Attributes:
        name: Name of the stage.
        parts: Its modules, and parameters of no module but the torso.
        hidden: The hidden layer whose units can be reset one by one, or None.
        reader: The one map that reads them; None if they are the features, which the head reads.
        positions: Consecutive inputs of the reader for each unit: those of a convolution that is flattened.
    """

    name: str
    parts: tuple[nn.Module | nn.Parameter, ...]
    hidden: HiddenLayer | None = None
    reader: nn.Linear | nn.Conv2d | None = None
    positions: int = 1


class Torso(nn.Module):
    """Maps inputs to features; a subclass makes its modules and declares the stages that they form.

    From the stages follow unit layers and what is reset together, from the modules the initial values.

    Attributes:
        stages: In forward order.
        hidden: Hidden layers whose units are in the graph, in forward order.
        features: Length of the feature vector.
        gain: Of maps outside hidden layers, under the initialisers that have one.
        reads_tokens: Whether inputs are token numbers, to be looked up.
    """

    reads_tokens: ClassVar[bool] = False
    stages: tuple[Stage, ...]
    hidden: tuple[HiddenLayer, ...]
    features: int
    gain: float

    def declare(self, features: int, stages: Sequence[Stage], gain: float = 1.0) -> None:
        """Declares what the torso is made of; called once, when all modules are made."""
        self.features, self.stages, self.gain = features, tuple(stages), gain
        self.hidden = tuple(stage.hidden for stage in stages if stage.hidden is not None)

    def forward(self, x: Tensor, taps: Taps | None = None) -> Tensor:
        """Maps inputs (B, *input_shape) to features (B, features); activations go to ``taps`` if there are any."""
        raise NotImplementedError

    def finish(self, x: Tensor) -> Tensor:
        """Maps the output of the last of ``layers`` to features."""
        return x.flatten(1) if x.ndim > 2 else x

    def unit_layers(self, prefix: str, readers: Readers) -> list[UnitLayer]:
        """Describes all units that can be reset one by one.

        Args:
            prefix: Module path of the torso in the network.
            readers: Called with a layer whose post-activations are the features, and its positions per channel; returns what
                reads them.
        """
        paths = {module: f"{prefix}.{path}" for path, module in self.named_modules()}
        described = []
        for stage in self.stages:
            hidden, reader = stage.hidden, stage.reader
            if hidden is not None:
                own = None if reader is None else (hidden.read_by(paths[reader], reader, stage.positions),)
                described.append(hidden.unit_layer(paths[hidden], own or readers(hidden, stage.positions)))
        return described

    def excluded(self) -> list[ExcludedUnits]:
        """Describes the tapped activations whose units cannot be reset one by one."""
        return []

    def initialisers(self, prefix: str, kind: str) -> dict[str, Initialiser]:
        """Returns the initial distributions of all parameters by name.

        Args:
            prefix: Module path of the torso in the network.
            kind: That of the linear maps; normalisation starts at a gain of 1 and an offset of 0.
        """
        chosen: dict[str, Initialiser] = {}
        within: tuple[str, ...] = ()  # paths of what hidden layers hold
        for path, module in self.named_modules(prefix=prefix):
            if isinstance(module, HiddenLayer):
                chosen |= module.initialisers(path, kind)
                within = (*within, f"{path}.")
            elif path.startswith(within):
                continue
            elif isinstance(module, nn.Linear | nn.Conv2d):
                chosen |= map_initialisers(path, module, kind, self.gain)
            elif isinstance(module, NORMS):
                starts = {"weight": 1.0, "bias": 0.0}
                chosen |= {f"{path}.{name}": Initialiser("constant", start) for name, start in starts.items()}
        there = {name for name, _ in self.named_parameters(prefix=prefix)}
        return {name: start for name, start in chosen.items() if name in there}

    def blocks(self, prefix: str) -> dict[str, tuple[str, ...]]:
        """Returns the paths of what is reset together, by name, in forward order."""
        names = {id(part): name for name, part in (*self.named_modules(), *self.named_parameters())}
        return {stage.name: tuple(f"{prefix}.{names[id(part)]}" for part in stage.parts) for stage in self.stages}
