"""The backward pass of a training loss."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Variable


def backward(loss: Tensor) -> None:
    """Adds the gradient of a scalar loss to the ``grad`` of every parameter it depends on, as ``loss.backward()`` does.

    On the CPU it calls PyTorch's engine directly. ``loss.backward()`` first stores the context of the calling thread for the
    threads of other devices, and the engine copies that at every node of the graph: a sixth of the time of a small network.
    """
    if loss.device.type != "cpu" or loss.dtype != torch.float32 or loss.ndim:
        loss.backward()
        return
    engine: Any = Variable._execution_engine
    keeps_graph, of_second_order, inputs = False, False, ()
    engine.run_backward(
        (loss,), (torch.ones(()),), keeps_graph, of_second_order, inputs, allow_unreachable=True, accumulate_grad=True
    )
