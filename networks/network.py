"""The one network factory: a torso, a head, their unit graph, and initial values that depend on names alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from networks.heads import build_head
from networks.initialisers import Initialiser, initialisers_for
from networks.load_balancing import LoadBalance
from networks.spec import HeadSpec, NetworkSpec
from networks.taps import Taps
from networks.torsos import build_torso
from networks.units import UnitGraph
from seeding import torch_generator

_MODE_DEPENDENT: Final = (nn.modules.batchnorm._BatchNorm, nn.Dropout, LoadBalance)


@dataclass(frozen=True)
class Block:
    """The tensors of one layer (weight, bias, its normalisation), the grain at which whole layers are reset."""

    name: str
    parameters: tuple[str, ...]
    buffers: tuple[str, ...]


class Network(nn.Module):
    """A torso and a head.

    Build it with ``build_network``; its structure is final from then on.

    Attributes:
        spec: What it was built from; a fresh network of the same shape is built from it again.
        units: The unit graph.
        taps: The latest recorded activations.
        initialisers: The initial distribution of every parameter, by name.
        blocks: Hidden layers, then the head, in forward order.
    """

    def __init__(self, spec: NetworkSpec, input_shape: Sequence[int], input_dtype: torch.dtype, head: HeadSpec) -> None:
        super().__init__()
        self.spec, self.head_spec = spec, head
        self.input_shape, self.input_dtype = tuple(input_shape), input_dtype
        self.taps = Taps()
        self._tensors: dict[str, Tensor] = {}
        self.torso = build_torso(spec, input_shape)
        self.head = build_head(self.torso.features, head)
        self.units = UnitGraph(tuple(self.torso.unit_layers("torso", self.head.readers("head"))))
        self.initialisers = self._initialisers()
        self.blocks = tuple(
            self._block(path, name)
            for path, name in [
                *((f"torso.layers.{layer.name}", layer.name) for layer in self.torso.hidden),
                ("head", "head"),
            ]
        )
        self._mode_dependent = any(isinstance(module, _MODE_DEPENDENT) for module in self.modules())

    def forward(self, inputs: Tensor, taps: Taps | None = None) -> Tensor:
        """Maps (B, *input_shape), uint8 images or floats, to the head's output.

        Activations are stored in ``taps`` if given, else in ``self.taps`` if they are recording.
        """
        return self.head(self.features(inputs, taps))

    def features(self, inputs: Tensor, taps: Taps | None = None) -> Tensor:
        """Maps inputs to the last hidden layer's post-activations (B, features); uint8 is divided by 255."""
        if taps is None and self.taps.recording:
            taps = self.taps
        values = inputs.to(self.head.linear.weight.dtype)
        return self.torso(values / 255 if inputs.dtype == torch.uint8 else values, taps)

    @property
    def mode_dependent(self) -> bool:
        """Whether training and evaluation mode differ: batch normalisation, load balancing."""
        return self._mode_dependent

    def train(self, mode: bool = True) -> "Network":
        """Switches the mode of the modules; free for a network in which no module depends on it."""
        if self._mode_dependent:
            return super().train(mode)
        self.training = mode
        return self

    def tensor(self, name: str) -> Tensor:
        """Returns the parameter or buffer of that name; AttributeError if there is none."""
        if name not in self._tensors:
            path, _, leaf = name.rpartition(".")
            self._tensors[name] = getattr(self.get_submodule(path), leaf)
        return self._tensors[name]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Network":
        """Moves or casts the network; buffers become other tensors then, so the names are looked up again."""
        self._tensors.clear()
        return super()._apply(fn, recurse)

    def weights(self) -> dict[str, nn.Parameter]:
        """Returns the parameters of linear maps without biases and normalisation: those of at least two axes."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.ndim >= 2}

    @property
    def norm_parameters(self) -> frozenset[str]:
        """Names of the gains and offsets of normalisation layers."""
        return frozenset(name for name in self.initialisers if ".norms." in name)

    def fresh(self, seed: int) -> "Network":
        """Builds a network of the same shape with new initial values, on the same device."""
        other = build_network(self.spec, self.input_shape, self.input_dtype, self.head_spec, seed)
        return other.to(next(self.parameters()).device)

    def initialise(self, seed: int) -> None:
        """Draws every parameter from its distribution, each by a generator private to (seed, name)."""
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                generator = torch_generator(seed, "initial", name)
                parameter.copy_(self.initialisers[name].sample(parameter.shape, generator))

    def _initialisers(self) -> dict[str, Initialiser]:
        chosen: dict[str, Initialiser] = {}
        for layer in self.torso.hidden:
            path = f"torso.layers.{layer.name}"
            weight, bias = initialisers_for(self.spec.initialiser, layer.linear.weight, layer.activation.gain)
            chosen |= {f"{path}.linear.weight": weight, f"{path}.linear.bias": bias}
            for name, _ in layer.norms.named_parameters():
                chosen[f"{path}.norms.{name}"] = Initialiser("constant", 1.0 if name.endswith("weight") else 0.0)
        weight, bias = initialisers_for(self.spec.initialiser, self.head.linear.weight, 1.0)
        return chosen | {"head.linear.weight": weight, "head.linear.bias": bias}

    def _block(self, path: str, name: str) -> Block:
        module = self.get_submodule(path)
        return Block(
            name,
            tuple(f"{path}.{key}" for key, _ in module.named_parameters()),
            tuple(f"{path}.{key}" for key, _ in module.named_buffers()),
        )


def build_network(spec: NetworkSpec, input_shape: Sequence[int], input_dtype: torch.dtype, head: HeadSpec, seed: int) -> Network:
    """Builds a network on the CPU.

    Every tensor is drawn by a generator of its own name, so a normalisation layer added by an intervention leaves the other
    tensors' initial values as they were.

    Args:
        spec: The torso.
        input_shape: (D,) or (C, H, W).
        input_dtype: ``torch.uint8`` for images in 0..255, else a float type.
        head: The output.
        seed: Seed of the initial values.

    Raises:
        ValueError: If a name is unknown or a size does not fit.
    """
    with torch.random.fork_rng(devices=[]):  # PyTorch's modules draw values of their own, which are replaced
        network = Network(spec, input_shape, input_dtype, head)
    network.initialise(seed)
    return network
