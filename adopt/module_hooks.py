"""The hooks through which the forwards of a user's module are seen."""

from abc import ABC, abstractmethod
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from torch import fx, nn
from torch.utils.hooks import RemovableHandle

from plasticity.adopt.joining import inputs_of

if TYPE_CHECKING:
    from plasticity.adopt.recording import Recorder


class Hook(ABC):
    """A hook that speaks for its own module alone: a copy of the module keeps it and stays silent, and so does a saved one."""

    def __init__(self, own: nn.Module, layer: str, recorder: "Recorder") -> None:
        self._own, self._layer, self._recorder = own, layer, recorder

    def register(self) -> RemovableHandle:
        """Puts the hook on its module."""
        return self._own.register_forward_hook(self)

    @abstractmethod
    def __call__(self, *_: Any) -> None:
        """Passes on what it sees."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "Hook":
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (nullcontext(), "__exit__")  # takes anything and returns None, wherever it is loaded


class _BeforeForward(Hook):
    """One that looks at inputs."""

    def register(self) -> RemovableHandle:
        """Puts the hook on its module."""
        return self._own.register_forward_pre_hook(self)


class OfOutput(Hook):
    """Sees pre-activations where a module hands them on."""

    def __call__(self, module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        """Passes on what it sees."""
        if module is self._own:
            self._recorder.see(self._layer, output)


class OfInput(_BeforeForward):
    """Sees pre-activations where a module takes them."""

    def __call__(self, module: nn.Module, arguments: tuple[Any, ...]) -> None:
        """Passes on what it sees."""
        if module is self._own and arguments:
            self._recorder.see(self._layer, arguments[0])


class OfPost(Hook):
    """Sees post-activations where a module hands them on."""

    def __call__(self, module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        """Passes on what it sees."""
        if module is self._own:
            self._recorder.see_live(self._layer, output)


class OfRead(_BeforeForward):
    """Sees post-activations where a module takes them."""

    def __call__(self, module: nn.Module, arguments: tuple[Any, ...]) -> None:
        """Passes on what it sees."""
        if module is self._own and arguments:
            self._recorder.see_live(self._layer, arguments[0])


class OfCall(Hook):
    """Sees the inputs of the module as a whole."""

    def register(self) -> RemovableHandle:
        """Puts the hook on its module."""
        return self._own.register_forward_pre_hook(self, with_kwargs=True)

    def __call__(self, module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        """Passes on what it sees."""
        if module is self._own and not any(isinstance(each, fx.Proxy) for each in arguments):  # nor where units are looked for
            self._recorder.begin(inputs_of(module, arguments, named))
