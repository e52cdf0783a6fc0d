"""What every network offers to updaters, interventions and metrics."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from plasticity.networks.layers.dropout import Dropout
from plasticity.networks.layers.initialisers import Initialiser
from plasticity.networks.layers.load_balancing import LoadBalance
from plasticity.networks.layers.noisy import NoisyLinear
from plasticity.networks.layers.normalisation import BATCH_STATISTICS, NORMS
from plasticity.networks.layers.spectral_normalisation import SpectralNormalisation
from plasticity.networks.spec import HeadSpec, NetworkSpec
from plasticity.networks.taps import Taps
from plasticity.networks.units import UnitGraph
from plasticity.settings.seeding import torch_generator

_MODE_DEPENDENT: Final = (*BATCH_STATISTICS, Dropout, LoadBalance, SpectralNormalisation)


@dataclass(frozen=True)
class Block:
    """The tensors of one layer (weight, bias, its normalisation), the unit in which whole layers are reset."""

    name: str
    parameters: tuple[str, ...]
    buffers: tuple[str, ...]


class Network(nn.Module, ABC):
    """A function of observations with hidden units, built by ``plasticity.networks.factory``; its structure is final.

    Attributes:
        spec: The torso it was built from.
        head_spec: The output it was built from.
        input_shape: (D,) or (C, H, W).
        input_dtype: ``torch.uint8`` for images in 0..255, else a float type.
        units: The unit graph.
        taps: The latest recorded activations.
        initialisers: The initial distribution of every parameter, by name.
        blocks: Hidden layers, then the head, in forward order.
    """

    units: UnitGraph
    initialisers: dict[str, Initialiser]
    blocks: tuple[Block, ...]

    def __init__(self, spec: NetworkSpec, input_shape: Sequence[int], input_dtype: torch.dtype, head: HeadSpec) -> None:
        super().__init__()
        self.spec, self.head_spec = spec, head
        self.input_shape, self.input_dtype = tuple(input_shape), input_dtype
        self.taps = Taps()
        self._tensors: dict[str, Tensor] = {}

    @abstractmethod
    def forward(self, inputs: Tensor, taps: Taps | None = None) -> Tensor:
        """Maps (B, *input_shape), uint8 images or floats, to outputs.

        Activations are stored in ``taps`` if given, else in ``self.taps`` if they are recording.
        """

    @abstractmethod
    def decode(self, outputs: Tensor) -> Tensor:
        """Returns the scalars that outputs stand for: expected values of a categorical head, else the outputs themselves."""

    @abstractmethod
    def fresh(self, seed: int) -> "Network":
        """Builds a network of the same shape with new initial values, on the same device."""

    @property
    def feature_layers(self) -> tuple[str, ...]:
        """Names of the last hidden layers: those that an output map reads.

        There is one for each stream of a dueling head and for each member of an ensemble; a value next to a policy reads the same
        layer. Where the head reads a residual stream it is the last tapped one.
        """
        outputs = set(self.blocks[-1].parameters) if self.blocks else set()
        layers = self.units.layers
        names = tuple(layer.name for layer in layers if any(reader.weight.tensor in outputs for reader in layer.consumers))
        return names or tuple(entry.name for entry in self.units.excluded[-1:])

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Puts the network into evaluation mode for the block and then back."""
        was_training = self.training
        self.eval()
        try:
            yield
        finally:
            self.train(was_training)

    @property
    def noisy_layers(self) -> tuple[NoisyLinear, ...]:
        """The layers that ``plasticity.networks.layers.noisy.fresh_noise`` draws noise for."""
        cached: tuple[NoisyLinear, ...] | None = self.__dict__.get("_noisy_layers")
        if cached is None:
            cached = self.__dict__["_noisy_layers"] = tuple(m for m in self.modules() if isinstance(m, NoisyLinear))
        return cached

    @property
    def mode_dependent(self) -> bool:
        """Whether training and evaluation mode differ: batch normalisation, load balancing, spectral normalisation, dropout."""
        cached: bool | None = self.__dict__.get("_mode_dependent")
        if cached is None:
            cached = self.__dict__["_mode_dependent"] = any(isinstance(module, _MODE_DEPENDENT) for module in self.modules())
        return cached

    def train(self, mode: bool = True) -> "Network":
        """Switches the mode of the modules; free for a network in which no module depends on it."""
        if self.mode_dependent:
            return super().train(mode)
        self.__dict__["training"] = mode  # nn.Module's own way looks through parameters, buffers and modules first
        return self

    def tensor(self, name: str) -> Tensor:
        """Returns the parameter or buffer of that name; AttributeError if there is none."""
        if name not in self._tensors:
            path, _, leaf = name.rpartition(".")
            self._tensors[name] = getattr(self.get_submodule(path), leaf)
        return self._tensors[name]

    def weights(self) -> dict[str, nn.Parameter]:
        """Returns the parameters of linear maps without biases, normalisation and noise: those of two axes or more."""
        named = self.named_parameters()
        return {name: value for name, value in named if value.ndim >= 2 and not name.endswith(".weight_deviation")}

    @property
    def norm_parameters(self) -> frozenset[str]:
        """Names of the gains and offsets of normalisation layers and of diagonal maps."""
        named = [(path, module) for path, module in self.named_modules() if isinstance(module, NORMS)]
        return frozenset(f"{path}.{name}" for path, module in named for name, _ in module.named_parameters(recurse=False))

    def initialise(self, seed: int) -> None:
        """Draws every parameter from its distribution, each by a generator private to (seed, name)."""
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                generator = torch_generator(seed, "initial", name)
                if name not in self.initialisers:
                    raise ValueError(f"{name} has no initial distribution; initialisers() of its torso or head must name one")
                parameter.copy_(self.initialisers[name].sample(parameter.shape, generator))
            for module in self.modules():
                if isinstance(module, SpectralNormalisation):
                    module.estimate()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Network":
        """Moves or casts the network; buffers are then replaced by other tensors, so the names are looked up again."""
        self._tensors.clear()
        nn.Module._apply(self, fn, recurse)
        return self
