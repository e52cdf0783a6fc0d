"""Optimizers by name, entered by the ``optimizer`` decorator; plugins use the same decorator."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Final, NamedTuple, TypeVar

from torch.optim import Optimizer

from plasticity.networks.network import Network
from plasticity.optimizers.schedule import SCHEDULES, Schedule
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
    """Settings of one optimizer; an optimizer with further settings derives a dataclass from this one.

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
    schedule: str = setting(
        "constant",
        "How the learning rate changes: ``linear``, ``cosine`` fall to the part ``schedule_end`` of it, ``steps`` multiplies "
        "it with ``schedule_factor`` after each of ``schedule_milestones``.",
        choices=SCHEDULES,
    )
    schedule_steps: int | None = setting(
        None,
        "Environment steps, or minibatches, over which it falls, and then stays; None for all that the run was started with.",
        low=1,
    )
    schedule_per_task: bool = setting(
        False, "Whether it starts again with each task of a data stream, announced or not, and lasts as long as that."
    )
    schedule_warmup_steps: int = setting(
        0, "Environment steps, or minibatches, over which it rises linearly from 0, before it falls.", low=0
    )
    schedule_end: float = setting(0.0, "Part of the learning rate that is left at the end of ``linear`` and ``cosine``.", low=0)
    schedule_milestones: list[float] = setting(
        [], "Parts of the length, including the warm-up, increasing, after each of which ``steps`` lowers it.", low=0, high=1
    )
    schedule_factor: float = setting(0.2, "What ``steps`` multiplies it with.", low=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"optimizer.betas={list(self.betas)} must be two numbers in [0, 1)")
        self._check_schedule()

    @property
    def adam_betas(self) -> tuple[float, float]:
        """The decay rates, as PyTorch expects them."""
        return self.betas[0], self.betas[1]

    @property
    def rate_schedule(self) -> Schedule:
        """How the learning rate changes during a run.

        Raises:
            ValueError: If its length is left open; a run fills it in.
        """
        if self.schedule != "constant" and not self.schedule_per_task and self.schedule_steps is None:
            raise ValueError(f"optimizer.schedule={self.schedule} needs optimizer.schedule_steps, over which it falls")
        return Schedule(
            self.schedule,
            self.schedule_steps or 0,
            self.schedule_per_task,
            self.schedule_warmup_steps,
            self.schedule_end,
            tuple(self.schedule_milestones),
            self.schedule_factor,
        )

    def _check_schedule(self) -> None:
        milestones, warmup, steps = list(self.schedule_milestones), self.schedule_warmup_steps, self.schedule_steps
        if milestones != sorted(milestones):
            raise ValueError(f"optimizer.schedule_milestones={milestones} must rise")
        if bool(milestones) != (self.schedule == "steps"):
            raise ValueError(
                f"optimizer.schedule_milestones={milestones} with optimizer.schedule={self.schedule}: milestones are for steps, "
                "which needs one or more"
            )
        if self.schedule in ("linear", "cosine") and not self.schedule_per_task and steps is not None and warmup >= steps:
            raise ValueError(f"optimizer.schedule_warmup_steps={warmup} must be less than optimizer.schedule_steps={steps}")


def optimizer(name: str, settings: type[OptimizerSettings] = OptimizerSettings) -> Callable[[_Build], _Build]:
    """Registers a function, or a class, that makes an optimizer: ``optimizer=<name>``.

    It is called with the settings, the network, and a seed for what the optimizer draws; the optimizer holds every parameter of
    the network once. The first line of its docstring is what ``list=optimizers`` prints.

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
        settings: Name and settings of the optimizer.
        network: Its parameters are trained.
        seed: Seed of optimizers that draw random numbers.
    """
    return OPTIMIZERS.named(settings.name).build(settings, network, seed)
