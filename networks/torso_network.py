"""A torso and a head."""

from collections.abc import Sequence

import torch
from torch import Tensor

from networks.heads import build_head
from networks.initialisers import Initialiser, initialisers_for
from networks.network import Block, Network
from networks.spec import HeadSpec, NetworkSpec
from networks.taps import Taps
from networks.torsos import build_torso
from networks.units import UnitGraph


class TorsoNetwork(Network):
    """A torso that makes features, and a head that reads them."""

    def __init__(self, spec: NetworkSpec, input_shape: Sequence[int], input_dtype: torch.dtype, head: HeadSpec) -> None:
        super().__init__(spec, input_shape, input_dtype, head)
        self.torso = build_torso(spec, input_shape)
        self.head = build_head(self.torso.features, head)
        self.units = UnitGraph(tuple(self.torso.unit_layers("torso", self.head.readers("head"))))
        self.initialisers = self._initialisers()
        # In a tuple, so that it is not registered a second time. Looked up by module, since a traced call replaces parameters.
        self._reference = tuple(linear for linear, _ in self.head.maps("head").values())
        hidden = [(f"torso.layers.{layer.name}", layer.name) for layer in self.torso.hidden]
        self.blocks = tuple(self._block(path, name) for path, name in [*hidden, ("head", "head")])

    def forward(self, inputs: Tensor, taps: Taps | None = None) -> Tensor:
        """Maps (B, *input_shape) to the head's output."""
        return self.head(self.features(inputs, taps))

    def features(self, inputs: Tensor, taps: Taps | None = None) -> Tensor:
        """Maps inputs to the last hidden layer's post-activations (B, features); uint8 is divided by 255."""
        if taps is None and self.taps.recording:
            taps = self.taps
        values = inputs.to(self.dtype)
        return self.torso(values / 255 if inputs.dtype == torch.uint8 else values, taps)

    @property
    def dtype(self) -> torch.dtype:
        """The type of the parameters."""
        return self._reference[0].weight.dtype

    def decode(self, outputs: Tensor) -> Tensor:
        """Returns the scalars that the head's outputs stand for."""
        return self.head.decode(outputs)

    def fresh(self, seed: int) -> "TorsoNetwork":
        """Builds a network of the same shape with new initial values, on the same device."""
        other = new_torso_network(self.spec, self.input_shape, self.input_dtype, self.head_spec, seed)
        return other.to(next(self.parameters()).device)

    def _initialisers(self) -> dict[str, Initialiser]:
        chosen: dict[str, Initialiser] = {}
        for layer in self.torso.hidden:
            path = f"torso.layers.{layer.name}"
            weight, bias = initialisers_for(self.spec.initialiser, layer.linear.weight, layer.activation.gain)
            chosen |= {f"{path}.linear.weight": weight, f"{path}.linear.bias": bias}
            for name, _ in layer.norms.named_parameters():
                chosen[f"{path}.norms.{name}"] = Initialiser("constant", 1.0 if name.endswith("weight") else 0.0)
        for path, (linear, gain) in self.head.maps("head").items():
            weight, bias = initialisers_for(self.spec.initialiser, linear.weight, gain)
            chosen |= {f"{path}.weight": weight, f"{path}.bias": bias}
        return chosen | self.head.others("head")

    def _block(self, path: str, name: str) -> Block:
        module = self.get_submodule(path)
        parameters = tuple(f"{path}.{key}" for key, _ in module.named_parameters())
        return Block(name, parameters, tuple(f"{path}.{key}" for key, _ in module.named_buffers()))


def new_torso_network(
    spec: NetworkSpec, input_shape: Sequence[int], input_dtype: torch.dtype, head: HeadSpec, seed: int
) -> TorsoNetwork:
    """Builds the network on the CPU and draws its values; see ``networks.factory.build_network``."""
    with torch.random.fork_rng(devices=[]):  # PyTorch's modules draw values of their own, which are replaced
        network = TorsoNetwork(spec, input_shape, input_dtype, head)
    network.initialise(seed)
    return network
