"""One hidden layer: linear map, diagonal map, normalisation, load balancing, activation, tap, pooling, dropout."""

from dataclasses import replace
from typing import Final

from torch import Tensor, nn
from torch.nn import functional

from plasticity.networks.layers.activations import activation_named
from plasticity.networks.layers.calls import call, call_map
from plasticity.networks.layers.diagonal import Diagonal
from plasticity.networks.layers.dropout import Dropout
from plasticity.networks.layers.initialisers import Initialiser
from plasticity.networks.layers.learned_activations import Rational
from plasticity.networks.layers.load_balancing import LoadBalance
from plasticity.networks.layers.noisy import NoisyLinear, map_initialisers
from plasticity.networks.layers.normalisation import build_normalisation
from plasticity.networks.layers.spectral_normalisation import SpectralNormalisation
from plasticity.networks.spec import NetworkSpec
from plasticity.networks.taps import Taps
from plasticity.networks.units import Consumer, NormSlice, UnitLayer, UnitSlice

# Values that a fresh unit has, by the names of parameters and buffers of the modules behind its map.
_FRESH: Final = {
    "weight": 1.0,
    "bias": 0.0,
    "running_mean": 0.0,
    "running_var": 1.0,
    "firing_rate": 0.5,
    "offset": 0.0,
    "height": 1.0,
    "width": 1.0,
}


class HiddenLayer(nn.Module):
    """``dropout(pool(activation(balance(norms(diagonal(map(x)))) + offset)))``, with a tap on either side of the activation.

    Args:
        name: The layer's name, the key of its taps.
        linear: The linear map, ``nn.Linear`` or ``nn.Conv2d``.
        spec: Names the diagonal map, normalisation, load balancing and dropout, whose last rate this layer has.
        activation: Name of the activation.
        pool: Side of the max-pooling, 1 for none.

    Raises:
        ValueError: If load balancing is requested for an activation that has no threshold at 0.
    """

    def __init__(self, name: str, linear: nn.Linear | nn.Conv2d, spec: NetworkSpec, activation: str, pool: int = 1) -> None:
        super().__init__()
        self.name, self.pool = name, pool
        self.activation_name, self.activation = activation, activation_named(activation)
        self.offset = spec.activation_offset
        self.linear = linear
        self.units = linear.weight.shape[0]
        self.learned = None if self.activation.learned is None else self.activation.learned(self.units)
        self.spectral = SpectralNormalisation(linear) if spec.spectral_layers else None
        self.diagonal = Diagonal(self.units) if spec.diagonal else None
        spatial = isinstance(linear, nn.Conv2d)
        self.norms = nn.ModuleList(build_normalisation(norm, self.units, spatial) for norm in spec.normalisation)
        self.balance: LoadBalance | None = None
        if spec.load_balancing is not None:
            if not self.activation.threshold:
                raise ValueError(
                    f"load_balancing does not work with activation {activation}, which has no firing threshold; "
                    "choose relu, leaky_relu, elu, gelu, abs or crelu"
                )
            self.balance = LoadBalance(self.units, spec.load_balancing)
        rate = spec.dropout_rates[-1] if spec.dropout_rates else 0.0
        self.dropout = Dropout(rate) if rate else None
        # In tuples, where a forward finds them at once: an attribute that is a module is found only after a failed search.
        self._map, self._norms = (linear,), tuple(self.norms)

    def forward(self, x: Tensor, taps: Taps | None = None) -> Tensor:
        """Maps (B, in, ...) to (B, copies * units, ...), and stores pre- and post-activations in ``taps`` if there are any."""
        z = call_map(self._map[0], x) if self.spectral is None else self.spectral(x)
        if self.diagonal is not None:
            z = self.diagonal(z)
        for norm in self._norms:
            z = call(norm, z)
        if self.balance is not None:
            z = self.balance(z)
        if self.offset:
            z = z + self.offset
        h = self.activation.function(z) if self.learned is None else self.learned(z)
        if taps is not None:
            taps.store(self.name, z, h)
        if self.pool > 1:
            h = functional.max_pool2d(h, self.pool)
        return h if self.dropout is None else self.dropout(h)

    def read_by(self, path: str, linear: nn.Linear | nn.Conv2d, positions: int = 1) -> Consumer:
        """Describes a reader, the map ``linear`` at ``path``, with ``positions`` consecutive inputs per channel on axis 1."""
        offsets = tuple(copy * self.units * positions for copy in range(self.activation.copies))
        columns = UnitSlice(f"{path}.weight", 1, self.units, offsets, positions)
        deviation = replace(columns, tensor=f"{path}.weight_deviation") if isinstance(linear, NoisyLinear) else None
        return Consumer(columns, None if linear.bias is None else f"{path}.bias", deviation)

    def unit_layer(self, prefix: str, consumers: tuple[Consumer, ...]) -> UnitLayer:
        """Describes the layer's units; ``prefix`` is the module path of this layer in the network."""
        modules: list[tuple[str, nn.Module]] = [] if self.diagonal is None else [("diagonal", self.diagonal)]
        modules += [(f"norms.{index}", norm) for index, norm in enumerate(self.norms)]
        if self.balance is not None:
            modules.append(("balance", self.balance))
        if self.learned is not None:
            modules.append(("learned", self.learned))
        norms = tuple(
            NormSlice(UnitSlice(f"{prefix}.{path}.{name}", 0, self.units), _FRESH[name])
            for path, module in modules
            for name, tensor in [*module.named_parameters(), *module.named_buffers()]
            if tensor.ndim == 1 and not isinstance(module, Rational)  # whose coefficients belong to the whole layer
        )
        bias = None if self.linear.bias is None else UnitSlice(f"{prefix}.linear.bias", 0, self.units)
        weight = UnitSlice(f"{prefix}.linear.weight", 0, self.units)
        layer = UnitLayer(self.name, self.units, self.activation_name, self.activation.copies, weight, bias, norms, consumers)
        if not isinstance(self.linear, NoisyLinear):
            return layer
        deviations = [UnitSlice(f"{prefix}.linear.{name}", 0, self.units) for name in ("weight_deviation", "bias_deviation")]
        return replace(layer, weight_deviation=deviations[0], bias_deviation=deviations[1])

    def initialisers(self, prefix: str, kind: str) -> dict[str, Initialiser]:
        """Returns the initial distributions of the layer's parameters by name; ``kind`` is that of its map."""
        chosen = map_initialisers(f"{prefix}.linear", self.linear, kind, self.activation.gain)
        for name, _ in self.norms.named_parameters():
            chosen[f"{prefix}.norms.{name}"] = Initialiser("constant", 1.0 if name.endswith("weight") else 0.0)
        if self.diagonal is not None:
            chosen |= {f"{prefix}.diagonal.{name}": Initialiser("constant", _FRESH[name]) for name in ("weight", "bias")}
        if self.learned is not None:
            chosen |= {f"{prefix}.learned.{name}": start for name, start in self.learned.initialisers().items()}
        return chosen
