"""A user's module as the network that methods and metrics know."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from plasticity.adopt.finding import Found
from plasticity.adopt.initial_values import Fresh, fresh_module, reset_statistics
from plasticity.adopt.operations import NORMS
from plasticity.adopt.recording import Recorder
from plasticity.adopt.tracing import Forward, tensors_in
from plasticity.networks.layers.initialisers import Initialiser
from plasticity.networks.network import Block, Network
from plasticity.networks.spec import HeadSpec, NetworkSpec
from plasticity.networks.taps import Taps


class AdoptedNetwork(Network):
    """Speaks for a module that is not this project's: its parameters are the user's own, under the user's names.

    The module is no submodule of this one, so that nothing of it gets another name, and nothing here is saved with it.

    Args:
        module: The user's.
        forward: Called with module and inputs; None for the module itself.
        found: Its units.
        initialisers: What its parameters are drawn from.
        fresh: Builds it again, or None.
        example: What it was traced on.

    Attributes:
        module: The user's.
        found: Its units.
        recorder: Sees its forwards.
        trained: ``id`` of the parameters that methods may know of; None for all.
    """

    def __init__(
        self,
        module: nn.Module,
        forward: Forward | None,
        found: Found,
        initialisers: dict[str, Initialiser],
        fresh: Fresh | None,
        example: Any,
    ) -> None:
        nn.Module.__init__(self)
        own = self.__dict__  # as plain attributes: a module would be registered
        own["module"] = module
        self.found, self.units, self.initialisers = found, found.units, initialisers
        self._call, self._fresh, self._example = forward, fresh, example
        self.taps, self._tensors = Taps(), {}
        self.recorder = Recorder(module, found.taps)
        self.trained: frozenset[int] | None = None
        first = next(iter(tensors_in(example)), torch.zeros(1))
        self.input_shape, self.input_dtype = tuple(first.shape[1:]), first.dtype
        self.blocks = _blocks(module, found)

    @property
    def module(self) -> nn.Module:
        """The user's module."""
        module: nn.Module = self.__dict__["module"]
        return module

    @property
    def spec(self) -> NetworkSpec:
        """What every torso can be told, at its defaults."""
        return NetworkSpec()

    @spec.setter
    def spec(self, value: NetworkSpec) -> None:
        self._not_known()

    def declare_outputs(self, head: HeadSpec) -> None:
        """Says what the outputs stand for, where somebody knows."""
        self.__dict__["head"] = head

    @property
    def head_spec(self) -> HeadSpec:
        """What the outputs stand for; refused where nobody has said it."""
        head: HeadSpec | None = self.__dict__.get("head")
        if head is None:
            self._not_known()
        return head

    @head_spec.setter
    def head_spec(self, value: HeadSpec) -> None:
        self._not_known()

    def _not_known(self) -> NoReturn:
        raise ValueError("it asks what the outputs of the network stand for, which is not known of an adopted module")

    def forward(self, inputs: Any, taps: Taps | None = None) -> Tensor:
        """Runs the module; several outputs are flattened and joined, (B, ...).

        Args:
            inputs: As the example was.
            taps: Gets the activations.
        """
        if taps is None:
            return self._joined(self._run(inputs))
        with self.recorder.into(taps):
            return self._joined(self._run(inputs))

    def _run(self, inputs: Any) -> Any:
        given = inputs if isinstance(inputs, tuple) else (inputs,)
        return self.module(*given) if self._call is None else self._call(self.module, *given)

    @staticmethod
    def _joined(outputs: Any) -> Tensor:
        tensors = tensors_in(outputs)
        if not tensors:
            raise ValueError("the module returned no tensor")
        return tensors[0] if len(tensors) == 1 else torch.cat([each.flatten(1) for each in tensors if each.ndim > 0], dim=1)

    def decode(self, outputs: Tensor) -> Tensor:
        """Returns the outputs as they are."""
        return outputs

    def fresh(self, seed: int) -> "AdoptedNetwork":
        """Builds a module like the user's with new initial values.

        They come from ``fresh``, or each parameter from its distribution by a generator private to (seed, name), or, where one is
        not known, from what PyTorch's modules do to reset themselves.
        """
        if self._fresh is None and all(name in self.initialisers for name, _ in self.module.named_parameters()):
            made = self._around(deepcopy(self.module))
            made.initialise(seed)
            reset_statistics(made.module)
            return made
        return self._around(fresh_module(self.module, self._fresh, seed))

    def __deepcopy__(self, memo: dict[int, Any]) -> "AdoptedNetwork":
        """Copies the user's module; what it does is seen when it is asked with taps."""
        return self._around(deepcopy(self.module, memo))

    def _around(self, module: nn.Module) -> "AdoptedNetwork":
        made = AdoptedNetwork(module, self._call, self.found, self.initialisers, self._fresh, self._example)
        made.training = module.training
        if "head" in self.__dict__:
            made.declare_outputs(self.head_spec)
        return made

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Puts the user's modules into evaluation mode for the block, and each back into the mode that it had."""
        modes = {each: each.training for each in self.module.modules()}
        self.module.eval()
        try:
            yield
        finally:
            for each, mode in modes.items():
                each.training = mode

    @property
    def feature_layers(self) -> tuple[str, ...]:
        """Names of the last hidden layers whose activations can be seen."""
        seen = {tap.layer for tap in self.found.taps}
        return tuple(name for name in super().feature_layers if name in seen)

    @property
    def mode_dependent(self) -> bool:
        """True: what the user's modules do in either mode is not known."""
        return True

    def train(self, mode: bool = True) -> "AdoptedNetwork":
        """Switches the mode of the user's module."""
        self.training = mode
        self.module.train(mode)
        return self

    @property
    def norm_parameters(self) -> frozenset[str]:
        """Names of the gains and offsets of normalisation layers."""
        named = [(path, each) for path, each in self.module.named_modules() if isinstance(each, NORMS)]
        return frozenset(
            f"{path}.{name}" if path else name for path, each in named for name, _ in each.named_parameters(recurse=False)
        )

    def get_submodule(self, target: str) -> nn.Module:
        """Returns a module of the user's by name."""
        return self.module.get_submodule(target)

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """Yields the user's parameters under the user's names, those that are trained."""
        for name, parameter in self.module.named_parameters(prefix, recurse, remove_duplicate):
            if self.trained is None or id(parameter) in self.trained:
                yield name, parameter

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """Yields the user's buffers."""
        yield from self.module.named_buffers(prefix, recurse, remove_duplicate)

    def named_modules(self, memo: Any = None, prefix: str = "", remove_duplicate: bool = True) -> Iterator[tuple[str, nn.Module]]:
        """Yields the user's modules."""
        yield from self.module.named_modules(memo, prefix, remove_duplicate)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Returns the state of the user's module."""
        state: dict[str, Any] = self.module.state_dict(*args, **kwargs)
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Loads the state of the user's module."""
        return self.module.load_state_dict(state_dict, strict, assign)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "AdoptedNetwork":
        self._tensors.clear()
        self.module._apply(fn, recurse)
        return self


def _blocks(module: nn.Module, found: Found) -> tuple[Block, ...]:
    """Returns hidden maps with their normalisation, everything else that has parameters, and the output maps last."""
    norms = {layer.name: [norm.slice.tensor for norm in layer.norms] for layer in found.units.layers}
    parameters = dict(module.named_parameters())
    buffers = {name for name, _ in module.named_buffers()}
    blocks, used = [], set[str]()
    for name in found.maps:
        if name in found.heads:
            continue
        own = [f"{name}.{key}" if name else key for key in ("weight", "bias")]
        tensors = [each for each in [*own, *norms.get(name, ())] if each not in used]
        used |= {*tensors}
        blocks.append(_block(name or "module", tensors, parameters, buffers))
    heads = [f"{name}.{key}" if name else key for name in found.heads for key in ("weight", "bias")]
    rest = [name for name in parameters if name not in used and name not in heads]
    by_module: dict[str, list[str]] = {}
    for name in rest:
        by_module.setdefault(name.rpartition(".")[0], []).append(name)
    blocks += [_block(name or "module", tensors, parameters, buffers) for name, tensors in by_module.items()]
    return (*blocks, _block("head", heads, parameters, buffers))


def _block(name: str, tensors: list[str], parameters: Mapping[str, Any], buffers: set[str]) -> Block:
    return Block(name, tuple(each for each in tensors if each in parameters), tuple(each for each in tensors if each in buffers))
