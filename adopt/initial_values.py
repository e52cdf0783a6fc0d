"""What a user's parameters are drawn from: PyTorch's own defaults, the user's words, or a module that the user builds again."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from plasticity.networks.layers.initialisers import Initialiser, fan_in

Fresh = Callable[[], nn.Module]
_NORMS: Final = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)
_LARGEST_SEED: Final = 2**62


@dataclass(frozen=True)
class FromFresh(Initialiser):
    """Draws a tensor by building the user's module again."""

    kind: str = "fresh"
    scale: float = 0.0
    build: Callable[[int], nn.Module] = lambda seed: nn.Identity()
    name: str = ""

    @property
    def independent(self) -> bool:
        """False: the tensor is drawn as a whole."""
        return False

    def sample(self, shape: torch.Size, generator: torch.Generator) -> Tensor:
        """Builds a module with a seed of the generator's, and returns its tensor of this name."""
        seed = int(torch.randint(_LARGEST_SEED, (1,), generator=generator, device=generator.device).item())
        drawn = dict(self.build(seed).named_parameters())[self.name].detach()
        return drawn.to(generator.device, torch.float32)


class Initialisers(dict[str, Initialiser]):
    """Distributions by name of parameter; asked for one that nobody knows it says what to do."""

    def __missing__(self, name: str) -> Initialiser:
        raise ValueError(
            f"{name} has no initial distribution that is known; give fresh=, a function that builds the module again, or "
            f'initialisers={{"{name}": Initialiser(...)}}'
        )


def fresh_module(module: nn.Module, fresh: Fresh | None, seed: int) -> nn.Module:
    """Returns a module like this one with new initial values, on the same devices; global generators are left as they are.

    Args:
        module: A user's module.
        fresh: Builds it again; None to let every module of a copy reset its parameters.
        seed: Of the new values.

    Raises:
        ValueError: If a parameter belongs to a module that cannot reset it, or what was built has other parameters.
    """
    devices = {value.device for value in module.parameters() if value.device.type == "cuda"}
    with torch.random.fork_rng(list(devices)):
        torch.manual_seed(seed % 2**63)
        made = fresh() if fresh is not None else _reset(deepcopy(module))
    shapes, wanted = ({name: value.shape for name, value in each.state_dict().items()} for each in (made, module))
    if shapes != wanted:
        differing = sorted(name for name in {*shapes, *wanted} if shapes.get(name) != wanted.get(name))
        raise ValueError(f"fresh= built a module with other tensors than the adopted one: {', '.join(differing[:3])}")
    device = next(module.parameters()).device
    return made.to(device)


def _reset(module: nn.Module) -> nn.Module:
    for name, each in module.named_modules():
        own = list(each.named_parameters(recurse=False))
        reset: Any = getattr(each, "reset_parameters", None) or getattr(each, "_reset_parameters", None)
        if own and reset is None:
            raise ValueError(
                f"{name or type(each).__name__} cannot draw its parameter {own[0][0]} again; give fresh=, a function that builds "
                "the module"
            )
        if own:
            reset()
    reset_statistics(module)
    return module


def reset_statistics(module: nn.Module) -> None:
    """Makes the running statistics of normalisation layers those of a new module."""
    for each in module.modules():
        if isinstance(each, nn.modules.batchnorm._NormBase):
            each.reset_running_stats()


def initialisers_of(module: nn.Module, fresh: Fresh | None, given: Mapping[str, Initialiser] | None) -> Initialisers:
    """Returns what each parameter is drawn from: as given, from ``fresh``, or PyTorch's default of its module.

    Raises:
        ValueError: If a given name is no parameter.
    """
    names = [name for name, _ in module.named_parameters()]
    for name in given or {}:
        if name not in names:
            raise ValueError(f"initialisers: {name} is no parameter of the module; it has {', '.join(names[:6])}, ...")
    found = Initialisers()
    if fresh is not None:
        build = _Builder(module, fresh)
        found |= {name: FromFresh(build=build, name=name) for name in names}
    else:
        for path, each in module.named_modules():
            prefix = f"{path}." if path else ""
            found |= {f"{prefix}{name}": default for name, default in _defaults(each).items()}
    found |= dict(given or {})
    return found


@dataclass(frozen=True)
class _Builder:
    """Builds the user's module again."""

    module: nn.Module
    fresh: Fresh

    def __call__(self, seed: int) -> nn.Module:
        return fresh_module(self.module, self.fresh, seed)


def _defaults(module: nn.Module) -> dict[str, Initialiser]:
    """Returns the defaults of PyTorch's modules that are known."""
    if isinstance(module, nn.Linear | nn.modules.conv._ConvNd):
        bound = fan_in(module.weight) ** -0.5
        kept = {"weight": module.weight, "bias": module.bias}
        return {name: Initialiser("uniform", bound) for name, value in kept.items() if value is not None}
    if isinstance(module, _NORMS):
        named = {"weight": 1.0, "bias": 0.0}
        return {name: Initialiser("constant", value) for name, value in named.items() if getattr(module, name, None) is not None}
    if isinstance(module, nn.Embedding):
        return {"weight": Initialiser("normal", 1.0)}
    if isinstance(module, nn.PReLU):
        return {"weight": Initialiser("constant", 0.25)}
    return {}
