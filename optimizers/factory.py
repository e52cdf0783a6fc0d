"""Optimizers by name, entered by the ``optimizer`` decorator; plugins use the same one."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Final, NamedTuple, TypeVar

from torch.optim import Optimizer

from plasticity.networks.network import Network
from plasticity.settings.fields import Settings, setting
from plasticity.settings.registry import Registry

_Build = TypeVar("_Build", bound=Callable[..., Optimizer])


class OptimizerEntry(NamedTuple):
    """One optimizer.

    Attributes:
        settings: Class of its settings, ``OptimizerSettings`` or one derived from it.
        build: Makes it from settings, the network whose parameters it trains, and a seed for what it draws.
        description: One line.
    """

    settings: "type[OptimizerSettings]"
    build: Callable[[Any, Network, int], Optimizer]
    description: str


OPTIMIZERS: Final = Registry[OptimizerEntry]("optimizer", "plasticity.optimizers")


def _names() -> list[str]:
    return list(OPTIMIZERS)


@dataclass
class OptimizerSettings(Settings):
    """Settings of one optimizer; an optimizer that has more of its own derives a dataclass from this one.

    Weight decay is not among them: it is the intervention ``l2``, with a choice of parameters and of the decoupled form.
    """

    section: ClassVar[str] = "optimizer"

    name: str = setting("adam", "Which one.", choices=_names)
    learning_rate: float = setting(
        1e-3, "Step size; Muon's are scaled to the size of Adam's, so that the same numbers serve both.", low=0
    )
    betas: list[float] = setting([0.9, 0.999], "Decay rates of Adam and SOAP; Kron uses the first.")
    epsilon: float = setting(1e-8, "Added to the denominator of Adam, SOAP and RMSProp.", low=0)
    momentum: float = setting(0.0, "Of SGD, RMSProp and Muon.", low=0, high=1)
    smoothing: float = setting(0.95, "Decay of RMSProp's average.", low=0, high=1)
    centered: bool = setting(True, "Whether RMSProp divides by the standard deviation rather than the root mean square.")
    max_gradient_norm: float | None = setting(None, "Bound of the joint gradient norm; None for no clipping.", low=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"optimizer.betas={list(self.betas)} must be two numbers in [0, 1)")

    @property
    def adam_betas(self) -> tuple[float, float]:
        """The decay rates, as PyTorch wants them."""
        return self.betas[0], self.betas[1]


def optimizer(name: str, settings: type[OptimizerSettings] = OptimizerSettings) -> Callable[[_Build], _Build]:
    """Registers a function, or a class, that makes an optimizer: ``optimizer=<name>``.

    It is called with the settings, the network, and a seed for what the optimizer draws; the optimizer holds every parameter of
    the network once. The first line of its docstring is what ``list=optimizers`` says of it.

    Args:
        name: Lower-case words joined by underscores.
        settings: Class of its settings; a dataclass derived from ``OptimizerSettings`` may add its own.

    Raises:
        ValueError: If the name is taken by another definition, or not of that form.
        TypeError: If the settings are not such a class.
    """
    if not (isinstance(settings, type) and issubclass(settings, OptimizerSettings) and "__dataclass_fields__" in vars(settings)):
        raise TypeError(f"optimizer {name}: {settings!r} must be a dataclass derived from OptimizerSettings")

    def add(build: _Build) -> _Build:
        lines = (build.__doc__ or "").strip().splitlines()
        OPTIMIZERS.add(name, OptimizerEntry(settings, build, lines[0] if lines else ""), build)
        return build

    return add


def build_optimizer(settings: OptimizerSettings, network: Network, seed: int = 0) -> Optimizer:
    """Builds an optimizer over all parameters of a network, fused where PyTorch has a fused kernel.

    Args:
        settings: Which, and how.
        network: Its parameters are trained.
        seed: Of optimizers that draw numbers.
    """
    return OPTIMIZERS.named(settings.name).build(settings, network, seed)
