"""What a network is made of: plain settings, decided before any parameter exists."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING, ClassVar

from plasticity.settings.fields import Settings, require_range, setting

if TYPE_CHECKING:
    from plasticity.networks.torsos.torso import Torso


@dataclass(frozen=True)
class LoadBalancingSpec(Settings):
    """Bounds and step size of the load-balancing layer; see ``plasticity.networks.layers.load_balancing``."""

    section: ClassVar[str] = "load_balancing"

    low: float = setting(0.4, low=0, high=1)
    high: float = 0.6
    step_size: float = setting(0.001, low=0)
    decay: float = setting(0.99, low=0, high=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_range("load_balancing.high", self.high, self.low, 1)


@dataclass(frozen=True, kw_only=True)
class NetworkSpec(Settings):
    """Settings that all torsos share; each torso has its own class, which derives from this one, adds settings and builds it.

    A subclass is registered by ``plasticity.networks.registry.torso``, which gives it its name.

    Attributes:
        torso: Name of the torso, ``network.torso`` in configs.
        sizes: Settings that give the number of layers and of their units or channels: one number of layers, or
            a list with an entry for each layer.
    """

    section: ClassVar[str] = "network"
    torso: ClassVar[str] = ""
    sizes: ClassVar[tuple[str, ...]] = ("widths",)

    widths: list[int] = setting(
        [128, 128], "Units of each dense hidden layer; of a residual torso one number, the width of its stream.", low=1
    )
    activations: list[str] = setting(["relu"], "One name for every hidden layer, or one for each.")
    activation_offset: float = setting(0.0, "Added to the input of every activation.")
    normalisation: list[str] = setting(
        [],
        "Layers between the linear map and the activation, in order: ``layer``, ``batch``; without gain and "
        "offset ``layer_non_affine``, ``batch_non_affine``; one moment ``layer_mean``, ``layer_std``, "
        "``batch_mean``, ``batch_std``.",
    )
    normalised_layers: list[int] = setting(
        [], "Numbers of the torso's layers that have them, counted from 1, or from the last by -1; empty for all."
    )
    initialiser: str = setting(
        "default",
        "``default`` (PyTorch's), ``kaiming_uniform``, ``kaiming_normal``, ``xavier_uniform`` or ``orthogonal``; behind "
        "``absolute_``, such as ``absolute_default``, the absolute values of one of the first four.",
    )
    diagonal: bool = setting(
        False,
        "Whether the map of every hidden layer is followed by a factor and an offset for each unit, ahead of normalisation.",
    )
    load_balancing: LoadBalancingSpec | None = setting(None, "The load-balancing layer before each activation, or None.")
    spectral_layers: list[int] = setting(
        [], "Numbers of the torso's layers with spectral normalisation, counted from 1, or from the last by -1."
    )
    dropout_rates: list[float] = setting(
        [],
        "Probability that the method ``dropout`` sets an activation to 0: one for every hidden layer, or one for each; empty for "
        "none.",
        low=0,
        below=1,
    )
    injected_layers: int = setting(
        0, "Layers, counted from the output, that have the frozen companions of ``plasticity_injection``; 0 for none.", low=0
    )

    def build(self, input_shape: Sequence[int], head: "HeadSpec") -> "Torso":
        """Builds the torso.

        Args:
            input_shape: (D,) or (C, H, W), or (T,) of sequences.
            head: The output, which determines noise and the number of kinds of tokens.

        Raises:
            ValueError: If a size does not fit the input, or the torso does not work with a setting.
        """
        raise NotImplementedError(f"{type(self).__name__} builds no torso; a subclass has a method build")

    def least_weights(self, input_shape: Sequence[int]) -> tuple[int, int]:
        """Returns how many weights and layers there are at least, without building them."""
        return sum(map(prod, pairwise([1, *self.widths]))), len(self.widths)


@dataclass(frozen=True)
class HeadSpec:
    """The output of a network.

    Attributes:
        kind: ``q`` (one value per action), ``categorical`` (a categorical value per output), ``classification`` or ``policy``
            (logits), ``regression`` or ``value``, ``gaussian`` (mean, and a log standard deviation that does not depend on the
            input), ``squashed_gaussian`` (mean and log standard deviation).
        outputs: Actions, action dimensions, classes, values or regression targets.
        bins: Atoms of a categorical head.
        low: Value of the first atom.
        high: Value of the last atom.
        gain: Factor of the output weights' initial scale under the initialisers that have one.
        second: A second output of the same features, such as a value next to a policy; its columns follow the first's.
        dueling: Whether ``q`` or ``categorical`` values are made of a value and an advantage stream.
        stream_widths: Units of the hidden layers of each stream.
        noise_deviation: sigma_0 of all dense maps, those of the torso included, see ``plasticity.networks.layers.noisy``; 0 for
            maps without noise.
        pop_art: Whether ``q`` or ``value`` outputs are normalised, see ``plasticity.networks.heads.pop_art``.
        deviation_low: Least deviation that they are normalised by.
        label_smoothing: Weight of the uniform distribution that a categorical head's targets are mixed with and that decoding
            removes again, in [0, 1); 0 if there is none, or if decoding does not remove it.
    """

    kind: str
    outputs: int
    bins: int = 0
    low: float = 0.0
    high: float = 0.0
    gain: float = 1.0
    second: "HeadSpec | None" = None
    dueling: bool = False
    stream_widths: tuple[int, ...] = ()
    noise_deviation: float = 0.0
    pop_art: bool = False
    deviation_low: float = 1e-4
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        require_range("head.outputs", self.outputs, 1)

    @property
    def form(self) -> str:
        """Name of the head that is built: ``paired``, ``pop_art`` or ``dueling`` where that is chosen, else the kind."""
        made = {"paired": self.second is not None, "pop_art": self.pop_art, "dueling": self.dueling}
        return next((name for name, chosen in made.items() if chosen), self.kind)
