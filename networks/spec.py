"""What a network is made of: plain settings, decided before any parameter exists."""

from collections.abc import Sequence
from dataclasses import dataclass, field


def require_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raises ValueError naming ``value`` and the ``choices`` unless it is one of them."""
    if value not in choices:
        raise ValueError(f"{name}={value} is unknown; choose from {', '.join(choices)}")


def require_range(name: str, value: float, low: float, high: float = float("inf")) -> None:
    """Raises ValueError unless ``low <= value <= high``."""
    if not low <= value <= high:
        allowed = f"at least {low:g}" if high == float("inf") else f"between {low:g} and {high:g}"
        raise ValueError(f"{name}={value} must be {allowed}")


@dataclass(frozen=True)
class LoadBalancingSpec:
    """Bounds and step size of the load-balancing layer; see ``plasticity.networks.layers.load_balancing``."""

    low: float = 0.4
    high: float = 0.6
    step_size: float = 0.001
    decay: float = 0.99

    def __post_init__(self) -> None:
        require_range("load_balancing.low", self.low, 0, 1)
        require_range("load_balancing.high", self.high, self.low, 1)
        require_range("load_balancing.step_size", self.step_size, 0)
        require_range("load_balancing.decay", self.decay, 0, 1)


@dataclass(frozen=True)
class NetworkSpec:
    """The torso of a network, layer by layer.

    Attributes:
        torso: ``mlp``, ``conv``, ``nature_cnn``, ``resnet18``, ``simba``, ``bro``, ``simba_v2``, ``vit`` or ``gpt``.
        widths: Units of each dense hidden layer; of a residual torso one number, the width of its stream.
        channels: Output channels of each convolution (``conv`` only).
        kernel_sizes: Kernel side of each convolution, in pixels; a single entry serves all of them.
        strides: Stride of each convolution, in pixels; a single entry serves all of them.
        paddings: Zero padding of each convolution, in pixels; a single entry serves all of them.
        pools: Side of the max-pooling after each convolution's activation, 1 for none; a single entry serves all of them.
        residual_blocks: Blocks of a residual torso, or of each stage of ``resnet18``.
        normalised_skip: Whether the skip path of ``resnet18`` passes a batch normalisation without gain and offset.
        convolution_biases: Whether the convolutions of ``resnet18`` have biases.
        expansion: Inner units of a residual block for each unit of the stream.
        attention_heads: Heads of each attention of ``vit`` and ``gpt``.
        patch_size: Side of a patch of ``vit``, in pixels.
        activations: One name for every hidden layer, or one for each.
        activation_offset: Added to what every activation receives.
        normalisation: Layers between the linear map and the activation, in order: ``layer``, ``batch``; without gain and offset
            ``layer_non_affine``, ``batch_non_affine``; one moment ``layer_mean``, ``layer_std``, ``batch_mean``, ``batch_std``.
        normalised_layers: Numbers of the torso's layers that have them, counted from 1, or from the last by -1; empty for all.
        initialiser: ``default`` (PyTorch's), ``kaiming_uniform``, ``kaiming_normal``, ``xavier_uniform`` or ``orthogonal``.
        load_balancing: The load-balancing layer before each activation, or None.
        spectral_layers: Numbers of the torso's layers with spectral normalisation, counted from 1, or from the last by -1.
        injected_layers: Layers, counted from the output, that have the frozen companions of ``plasticity_injection``; 0 for none.
    """

    torso: str = "mlp"
    widths: list[int] = field(default_factory=lambda: [128, 128])
    channels: list[int] = field(default_factory=list)
    kernel_sizes: list[int] = field(default_factory=lambda: [3])
    strides: list[int] = field(default_factory=lambda: [1])
    paddings: list[int] = field(default_factory=lambda: [0])
    pools: list[int] = field(default_factory=lambda: [1])
    residual_blocks: int = 2
    normalised_skip: bool = False
    convolution_biases: bool = True
    expansion: int = 4
    attention_heads: int = 2
    patch_size: int = 4
    activations: list[str] = field(default_factory=lambda: ["relu"])
    activation_offset: float = 0.0
    normalisation: list[str] = field(default_factory=list)
    normalised_layers: list[int] = field(default_factory=list)
    initialiser: str = "default"
    load_balancing: LoadBalancingSpec | None = None
    spectral_layers: list[int] = field(default_factory=list)
    injected_layers: int = 0

    def __post_init__(self) -> None:
        require_range("network.injected_layers", self.injected_layers, 0)
        require_range("network.residual_blocks", self.residual_blocks, 1)
        for name in ("expansion", "attention_heads", "patch_size"):
            require_range(f"network.{name}", getattr(self, name), 1)
        for name in ("widths", "channels", "kernel_sizes", "strides", "pools"):
            for value in getattr(self, name):
                require_range(f"network.{name}", value, 1)
        for value in self.paddings:
            require_range("network.paddings", value, 0)


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
        beside: A second output of the same features, such as a value beside a policy; its columns follow the first's.
        dueling: Whether ``q`` or ``categorical`` values are made of a value and an advantage stream.
        stream_widths: Units of the hidden layers of each stream.
        noise_deviation: sigma_0 of all dense maps, those of the torso included, see ``plasticity.networks.layers.noisy``; 0 for
            maps without noise.
        pop_art: Whether ``q`` or ``value`` outputs are normalised, see ``plasticity.networks.heads.pop_art``.
        deviation_low: Least deviation that they are normalised by.
        label_smoothing: Weight of the uniform distribution that a categorical head's targets are mixed with and that decoding
            takes out again, in [0, 1); 0 if there is none, or if decoding leaves it in.
    """

    kind: str
    outputs: int
    bins: int = 0
    low: float = 0.0
    high: float = 0.0
    gain: float = 1.0
    beside: "HeadSpec | None" = None
    dueling: bool = False
    stream_widths: tuple[int, ...] = ()
    noise_deviation: float = 0.0
    pop_art: bool = False
    deviation_low: float = 1e-4
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        require_range("head.outputs", self.outputs, 1)
