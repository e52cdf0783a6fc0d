"""Recording a function of tensors as a CUDA graph, so that the host sends one command where it would send hundreds."""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor

from plasticity.updates.compiled_function import MOST_LAYOUTS, Function

_WARM_UPS: Final = 3  # libraries choose kernels and make their workspaces in the first calls, which cannot be recorded

Thunk = Callable[[], Sequence[Tensor]]
Rerun = Callable[[], object]


class _Recording(NamedTuple):
    inputs: list[Tensor]
    outputs: Sequence[Tensor]
    replay: Rerun


def record_on_cuda(warm_up: Thunk, thunk: Thunk) -> tuple[Sequence[Tensor], Rerun]:
    """Records what ``thunk`` does, without doing it.

    Args:
        warm_up: Does the same with other tensors; called a few times before recording.
        thunk: What is recorded; it may not wait for the device.

    Returns:
        The tensors it returns, whose values every replay replaces, and the replay.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UPS):
            warm_up()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = thunk()
    return outputs, graph.replay


class CapturedFunction:
    """A function of tensors, recorded for each combination of shapes, strides and types at its first occurrence.

    A recording knows addresses, not tensors: further arguments are copied to where it reads them. The next call overwrites what
    it returns; scalars are copied, since logs keep them. Combinations beyond ``MOST_LAYOUTS`` are not recorded.

    Args:
        function: Maps tensors to a sequence of tensors; it may change its arguments in place. It may not read values on the host.
        fixed: How many of its first tensors are the same, at the same place, in every call.
        record: Records a call; None for ``record_on_cuda``.
    """

    def __init__(
        self,
        function: Function,
        fixed: int = 0,
        record: Callable[[Thunk, Thunk], tuple[Sequence[Tensor], Rerun]] | None = None,
    ) -> None:
        self._function, self._fixed, self._record = function, fixed, record or record_on_cuda
        self._recorded: dict[tuple[tuple[torch.Size, tuple[int, ...], torch.dtype], ...], _Recording] = {}

    def __call__(self, *tensors: Tensor) -> Sequence[Tensor]:
        """Calls the function, without a graph of gradients."""
        given = tensors[self._fixed :]
        layout = tuple([(tensor.shape, tensor.stride(), tensor.dtype) for tensor in given])
        with torch.no_grad():
            recording = self._recorded.get(layout)
            if recording is None:
                if len(self._recorded) == MOST_LAYOUTS:
                    return self._function(*tensors)
                recording = self._recorded[layout] = self._recording(tensors)
            if given:
                torch._foreach_copy_(recording.inputs, list(given))
            recording.replay()
            return [output.clone() if output.ndim == 0 else output for output in recording.outputs]

    def _recording(self, tensors: Sequence[Tensor]) -> _Recording:
        inputs = [tensor.clone() for tensor in tensors[self._fixed :]]
        fixed = tensors[: self._fixed]

        def warm_up() -> Sequence[Tensor]:
            return self._function(*[tensor.clone() for tensor in tensors])

        outputs, replay = self._record(warm_up, lambda: self._function(*fixed, *inputs))
        return _Recording(inputs, outputs, replay)
