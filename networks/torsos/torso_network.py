"""A torso and a head."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from plasticity.networks.heads.output_heads import build_head
from plasticity.networks.layers.calls import call
from plasticity.networks.layers.dropout import WORDS
from plasticity.networks.layers.initialisers import Initialiser
from plasticity.networks.layers.injection import Injection, Tail, with_companions
from plasticity.networks.network import Block, Network
from plasticity.networks.spec import HeadSpec, NetworkSpec
from plasticity.networks.taps import Taps
from plasticity.networks.units import UnitGraph, UnitLayer


class TorsoNetwork(Network):
    """A torso that makes features, and a head that reads them."""

    def __init__(self, spec: NetworkSpec, input_shape: Sequence[int], input_dtype: torch.dtype, head: HeadSpec) -> None:
        super().__init__(spec, input_shape, input_dtype, head)
        self.torso = spec.build(input_shape, head)
        self.head = build_head(self.torso.features, head, spec)
        layers = [*self.torso.unit_layers("torso", self.head.readers("head")), *self.head.unit_layers("head")]
        self.initialisers = self._initialisers()
        self.injection: Injection | None = None
        if spec.injected_layers:
            self.injection = Injection(Tail(self.torso, self.head, spec.injected_layers))
            layers = self._with_companions(layers, self.injection)
        self.units = UnitGraph(tuple(layers), tuple(self.torso.excluded()))
        # In tuples, so that they are not registered a second time, and found at once: an attribute that is a module is found only
        # after a failed search. Parameters are looked up by module, since a traced call replaces them.
        self._parts = self.torso, self.head
        self._reference = tuple(linear for linear, _ in self.head.maps("head").values())
        self._convolution = tuple(layer.linear for layer in self.torso.hidden[:1] if layer.linear.weight.ndim == 4)
        paths = self.torso.blocks("torso") | self.head.blocks("head")
        self.blocks = tuple(self._block(name, modules) for name, modules in paths.items())
        if self.injection is not None:  # a head that is drawn again has no companions
            own = tuple(f"injection.{name}" for name, _ in self.injection.named_buffers())
            self.blocks = (*self.blocks[:-1], replace(self.blocks[-1], buffers=(*self.blocks[-1].buffers, *own)))

    def forward(self, inputs: Tensor, taps: Taps | None = None) -> Tensor:
        """Maps (B, *input_shape) to the head's output."""
        taps = self._recording(taps)
        torso, head = self._parts
        if self.injection is None or not self.injection.active.on:
            return call(head, call(torso, self._values(inputs), taps), taps)
        with self.injection.entering() as entered:
            features = self.features(inputs, taps)
        injected: Tensor = self.injection(entered[0] if entered else features, head(features, taps))
        return injected

    def features(self, inputs: Tensor, taps: Taps | None = None) -> Tensor:
        """Maps inputs to what the head reads, (B, features), or (B, T, features) of sequences."""
        features: Tensor = self.torso(self._values(inputs), self._recording(taps))
        return features

    @property
    def dtype(self) -> torch.dtype:
        """The type of the parameters."""
        return self._reference[0].weight.dtype

    def _values(self, inputs: Tensor) -> Tensor:
        """Returns inputs as the first layer reads them: ``uint8`` divided by 255, tokens as they are."""
        if self._parts[0].reads_tokens:
            return inputs
        if inputs.dtype == torch.uint8:
            # Division rounds once in any type, so that autocast, if it cast first, would give the same numbers.
            values = inputs.to(self._forward_type(inputs.device.type)).div_(255)
        else:
            values = inputs.to(self.dtype)
        if self._convolution and not self._convolution[0].weight.is_contiguous():
            values = values.contiguous(memory_format=torch.channels_last)  # once, and not again in the backward pass
        return values

    def _forward_type(self, device: str) -> torch.dtype:
        lower = torch.is_autocast_enabled(device) and self.dtype == torch.float32
        return torch.get_autocast_dtype(device) if lower else self.dtype

    def decode(self, outputs: Tensor) -> Tensor:
        """Returns the scalars that the head's outputs stand for."""
        return self.head.decode(outputs)

    def fresh(self, seed: int) -> "TorsoNetwork":
        """Builds a network of the same shape with new initial values, on the same device."""
        other = new_torso_network(self.spec, self.input_shape, self.input_dtype, self.head_spec, seed)
        return other.to(next(self.parameters()).device)

    def _with_companions(self, layers: Sequence[UnitLayer], injection: Injection) -> list[UnitLayer]:
        tensors = [*self.named_parameters(), *self.named_buffers()]
        names = injection.names({id(value): name for name, value in tensors})
        self.initialisers |= {f"injection.{name}": Initialiser("constant", 0.0) for name, _ in injection.named_buffers()}
        return with_companions(layers, names, "injection")

    def _initialisers(self) -> dict[str, Initialiser]:
        kind = self.spec.initialiser
        return self.torso.initialisers("torso", kind) | self.head.initialisers("head", kind)

    def _block(self, name: str, paths: Sequence[str]) -> Block:
        tensors = {name for name, _ in self.named_parameters()}
        modules = {path: self.get_submodule(path) for path in paths if path not in tensors}
        parameters = [f"{path}.{key}" for path, module in modules.items() for key, _ in module.named_parameters()]
        parameters += [path for path in paths if path not in modules]
        held = [f"{path}.{key}" for path, module in modules.items() for key, _ in module.named_buffers()]
        buffers = [key for key in held if not key.endswith(f".{WORDS}")]  # random numbers of the run, which no reset repeats
        return Block(name, tuple(parameters), tuple(buffers))

    def _recording(self, taps: Taps | None) -> Taps | None:
        return self.taps if taps is None and self.taps.recording else taps


def new_torso_network(
    spec: NetworkSpec, input_shape: Sequence[int], input_dtype: torch.dtype, head: HeadSpec, seed: int
) -> TorsoNetwork:
    """Builds the network on the CPU and draws its values; see ``plasticity.networks.factory.build_network``."""
    with torch.random.fork_rng(devices=[]):  # PyTorch's modules draw values of their own, which are replaced
        network = TorsoNetwork(spec, input_shape, input_dtype, head)
    network.initialise(seed)
    return network
