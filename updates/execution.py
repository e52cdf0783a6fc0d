"""How the updates of a part are carried out; what they compute is the same up to rounding."""

from dataclasses import dataclass
from typing import Final

import torch

from plasticity.updates.captured_function import CapturedFunction
from plasticity.updates.compiled_function import CompiledFunction, Function


@dataclass(frozen=True)
class Execution:
    """Settings of a part's updates.

    Attributes:
        autocast: Type of the forward pass, ``torch.bfloat16``, or None for float32 throughout.
        compile: Whether an update is compiled; worth it in long runs, since it takes from ten seconds to minutes.
        capture: Whether an update is recorded as a CUDA graph, compiled or not, and replayed.
    """

    autocast: torch.dtype | None = None
    compile: bool = False
    capture: bool = False

    @property
    def as_function(self) -> bool:
        """Whether an update is one function of tensors, and not run operation by operation."""
        return self.compile or self.capture

    @property
    def name(self) -> str:
        """The settings that make it one, for messages."""
        return " ".join(f"{name}=true" for name in ("compile", "capture") if getattr(self, name))

    @property
    def remedy(self) -> str:
        """The settings that would not, for messages."""
        return self.name.replace("true", "false")

    def of(self, function: Function, fixed: int) -> Function:
        """Returns the form in which a function of tensors is run; the first ``fixed`` of these are the same in every call."""
        made: Function = CompiledFunction(function, fixed) if self.compile else function
        return CapturedFunction(made, fixed) if self.capture else made


EAGER: Final = Execution()
