"""The activations of an update: those whose gradients it uses."""

from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from plasticity.adopt.finding import Tap
from plasticity.adopt.joining import joined_activations, joined_inputs
from plasticity.adopt.module_hooks import Hook, OfCall, OfInput, OfOutput, OfPost, OfRead
from plasticity.networks.taps import Taps

_MOST_WAITING: Final = 1000  # forwards with a graph through which no gradient has gone yet


@dataclass
class Candidate:
    """What was seen of one layer in one forward with gradients.

    Attributes:
        layer: Name.
        pre: Pre-activations, detached.
        number: Counts forwards of layers.
        live: Post-activations with their graph, if they were asked for.
        counts: Whether a gradient has gone through it.
    """

    layer: str
    pre: Tensor
    number: int
    live: Tensor | None = None
    counts: bool = False


@dataclass
class Call:
    """One forward of the module.

    Attributes:
        inputs: What it was called with, None if that is not known.
        number: Counts calls.
        seen: Its candidates.
    """

    inputs: Any = None
    number: int = 0
    seen: list[Candidate] = field(default_factory=list)

    @property
    def counts(self) -> bool:
        """Whether a gradient has gone through one of its layers."""
        return any(candidate.counts for candidate in self.seen)


class Recorder:
    """Sees the forwards of a module that is being trained, through hooks on its own layers.

    The hooks are there while somebody looks, and off the module otherwise: even one that does nothing makes a small layer a tenth
    slower. Once a forward was compiled with them they stay, since compiled code does not notice that hooks come or go.

    A forward with gradients is a candidate; it counts when a gradient has gone through it. ``forget_counted`` is called where
    gradients are cleared, and ``take`` where the optimizer steps. Acting and targets, which are computed without gradients, are
    not seen, nor are copies of the module, which keep the hooks and stay silent.

    Args:
        module: The module.
        taps: Where activations are.

    Attributes:
        keeps_graph: Whether post-activations are kept with their graph.
        compiled: Whether a forward was compiled with the hooks in it.
    """

    def __init__(self, module: nn.Module, taps: Sequence[Tap]) -> None:
        self.keeps_graph = self.compiled = False
        self._listening = self._silent = False
        self._taps = {tap.layer: tap for tap in taps}
        self._calls: list[Call] = []
        self._number = 0
        self._direct: Taps | None = None
        self._handles: list[RemovableHandle] = []
        self._modules = dict(module.named_modules(remove_duplicate=False))
        self._hooks: list[Hook] = [OfCall(module, "", self)]
        for tap in taps:
            kind = OfInput if tap.by_input else OfOutput
            self._hooks.append(kind(self._modules[tap.module], tap.layer, self))

    @property
    def listening(self) -> bool:
        """Whether forwards with gradients are kept."""
        return self._listening and not self._silent

    @listening.setter
    def listening(self, value: bool) -> None:
        self._listening = value
        self._arrange()

    def _arrange(self) -> None:
        """Puts the hooks on the module if somebody looks, and takes them off if nobody does."""
        wanted = self._listening or self._direct is not None
        if wanted and not self._handles:
            self._handles = [hook.register() for hook in self._hooks]
        elif not wanted and self._handles and not self.compiled:
            self._take_off()

    def _take_off(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def keep_graphs(self, method: str) -> None:
        """Keeps post-activations with their graph as well, for a method that differentiates through them.

        Raises:
            ValueError: If neither a module of its own nor a map behind it shows what a non-linearity hands on.
        """
        self.keeps_graph = True
        for tap in self._taps.values():
            if tap.nonlinearity.name == "identity":
                continue
            if tap.behind is not None:
                self._hooks.append(OfPost(self._modules[tap.behind], tap.layer, self))
            elif tap.read_by is not None:
                self._hooks.append(OfRead(self._modules[tap.read_by], tap.layer, self))
            else:
                raise ValueError(
                    f"{method} differentiates through the activations of {tap.layer}, and no module shows what its non-linearity "
                    f"{tap.nonlinearity.name} hands on; make it a module of its own, nn.ReLU"
                )
        self._take_off()
        self._arrange()

    @contextmanager
    def into(self, taps: Taps) -> Any:
        """Stores the activations of every forward inside the block into ``taps``, whatever ``listening`` says."""
        before, self._direct = self._direct, taps
        self._arrange()
        try:
            yield
        finally:
            self._direct = before
            self._arrange()

    @contextmanager
    def silent(self) -> Any:
        """Sees nothing inside the block: for a loss that is computed again."""
        before, self._silent = self._silent, True
        try:
            yield
        finally:
            self._silent = before

    def remove(self) -> None:
        """Takes the hooks off the module."""
        self._take_off()
        self._hooks, self._calls, self._listening = [], [], False

    def forget_counted(self) -> None:
        """Forgets what counts, since its gradients are cleared; candidates stay, as a forward may come before that."""
        if not self._calls:
            return
        for call in self._calls:
            self._let_go([candidate for candidate in call.seen if candidate.counts])
            call.seen = [candidate for candidate in call.seen if not candidate.counts]
        self._calls = [call for call in self._calls if call.seen]

    def take(self) -> tuple[Taps, Any]:
        """Returns what counts, layer by layer, joined in the order of the forwards, and the inputs; then forgets all."""
        if not self._calls:  # nobody looked
            return Taps(), None
        with torch.no_grad():
            return self._taken()

    def _taken(self) -> tuple[Taps, Any]:
        taps, inputs = Taps(), self.latest_inputs()
        for name, tap in self._taps.items():
            found = [candidate for call in self._calls for candidate in call.seen if candidate.counts and candidate.layer == name]
            if found:
                pre = joined_activations([candidate.pre for candidate in sorted(found, key=lambda each: each.number)])
                taps.pre[name], taps.post[name] = pre, tap.nonlinearity.function(pre)
        for call in self._calls:
            self._let_go(call.seen)
            call.seen = []
        self._calls = []
        return taps, inputs

    @staticmethod
    def _let_go(seen: Sequence[Candidate]) -> None:
        """Makes candidates new again, without the graph, which keeps them and must not be kept by them."""
        for candidate in seen:
            candidate.counts, candidate.live = False, None

    def live(self) -> dict[str, Tensor]:
        """Returns the post-activations with their graph since the last step, those of the latest forward of each layer."""
        return {candidate.layer: candidate.live for call in self._calls for candidate in call.seen if candidate.live is not None}

    def latest_inputs(self) -> Any:
        """Returns the inputs of the forwards that count, joined along the batch; None if they are not known."""
        found = [call.inputs for call in self._calls if call.counts]
        return joined_inputs(found) if found and all(each is not None for each in found) else None

    def waiting_inputs(self) -> Any:
        """Returns the inputs of all forwards since the last step, joined along the batch; None if they are not known."""
        found = [call.inputs for call in self._calls if call.seen]
        return joined_inputs(found) if found and all(each is not None for each in found) else None

    def begin(self, inputs: Any) -> None:
        """Takes notice that the module is called."""
        if torch.compiler.is_dynamo_compiling():
            self.compiled = True
        if self.listening and self._direct is None and torch.is_grad_enabled():
            self._number += 1
            self._calls.append(Call(inputs, self._number))

    def see(self, layer: str, pre: Tensor) -> None:
        """Takes notice of pre-activations (B, U, ...), or (B, T, U) of a map of tokens."""
        tap = self._taps[layer]
        if self._direct is None and not (self.listening and torch.is_grad_enabled() and pre.requires_grad):
            return
        rows = _by_rows(pre, tap)
        if self._direct is not None:
            rows = rows.clone() if tap.nonlinearity.in_place else rows
            self._direct.store(layer, rows, tap.nonlinearity.function(rows))
            return
        detached = rows.detach()
        self._number += 1
        candidate = Candidate(layer, detached.clone() if tap.nonlinearity.in_place else detached, self._number)
        if not self._calls:
            self._calls.append(Call())
        self._calls[-1].seen.append(candidate)
        pre.register_hook(_Counting(self, self._calls[-1], candidate))
        if self.keeps_graph and tap.nonlinearity.name == "identity":
            candidate.live = pre
        del self._calls[:-_MOST_WAITING]

    def count(self, call: Call, candidate: Candidate) -> None:
        """Takes notice of a gradient; of a candidate that was forgotten too, since a graph that is kept makes gradients again."""
        candidate.counts = True
        if all(each is not candidate for each in call.seen):
            call.seen.append(candidate)
        if self.listening and all(each is not call for each in self._calls):
            self._calls = sorted([*self._calls, call], key=lambda each: each.number)

    def see_live(self, layer: str, post: Tensor) -> None:
        """Takes notice of post-activations with their graph, right behind their pre-activations."""
        if self._direct is not None:
            return
        for candidate in reversed(self._calls[-1].seen if self._calls else []):
            if candidate.layer == layer:
                candidate.live = post
                return


class _Counting:
    """Marks a candidate when a gradient reaches it; it lives as long as the graph."""

    def __init__(self, recorder: Recorder, call: Call, candidate: Candidate) -> None:
        self._recorder, self._call, self._candidate = recorder, call, candidate

    def __call__(self, gradient: Tensor) -> None:
        self._recorder.count(self._call, self._candidate)


def _by_rows(pre: Tensor, tap: Tap) -> Tensor:
    """Returns activations with units along axis 1; of a dense map of (B, T, D), a row for each token."""
    return pre.flatten(0, -2) if tap.tokens and pre.ndim > 2 else pre
