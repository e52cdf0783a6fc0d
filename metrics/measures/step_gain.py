"""What the next steps of a part's own optimizer would gain, tried out on copies."""

from collections.abc import Iterable

import torch
from torch import nn
from torch.optim import Optimizer

from plasticity.metrics.measures.copies import copies_of
from plasticity.metrics.measures.minibatches import LossExamples, drawn, loss_examples
from plasticity.metrics.undefined import Undefined
from plasticity.metrics.view import PartView
from plasticity.networks.layers.dropout import without_dropout
from plasticity.networks.network import Network


def step_gains(view: PartView) -> list[float] | Undefined:
    """Returns the decrease of the loss of examples that are held out, after k steps on others, in each repeat.

    A repeat divides the latest examples at random into two halves. Copies of network and optimizer, with the optimizer's state
    and its current step sizes, make k steps on minibatches of one half, with the run's bound of the gradient norm; the loss is
    that of the other half, in evaluation mode. The half is held out from these steps only: the run may have learned from both
    halves. The steps are the optimizer's alone, without the terms, resets and edits of methods, and without dropout. Targets that
    an agent computes from a network, such as those of temporal differences, stay as they were.
    """
    examples = loss_examples(view, fewest=2)
    if isinstance(examples, Undefined):
        return examples
    return [_gain(view, examples, repeat) for repeat in range(view.draws.settings.repeats)]


def decrease(
    network: Network,
    optimizer: Optimizer,
    held_out: LossExamples,
    minibatches: Iterable[LossExamples],
    max_gradient_norm: float | None = None,
) -> float:
    """Steps a network on minibatches, in place, and returns how much lower the loss of the examples held out is then.

    Args:
        network: A copy that is used only here.
        optimizer: Of that copy.
        held_out: The examples whose loss is measured.
        minibatches: One for each step.
        max_gradient_norm: Bound of the joint gradient norm, or None.
    """
    before = _evaluated(network, held_out)
    for minibatch in minibatches:
        network.train()
        optimizer.zero_grad(set_to_none=True)
        with torch.enable_grad():
            minibatch.loss(network).backward()
        if max_gradient_norm is not None:
            nn.utils.clip_grad_norm_(network.parameters(), max_gradient_norm, foreach=True)
        optimizer.step()
    gain = before - _evaluated(network, held_out)
    return gain if abs(gain) < float("inf") else Undefined("the loss is not finite")


def _gain(view: PartView, examples: LossExamples, repeat: int) -> float:
    settings, generator = view.draws.settings, view.draws.generator("k-step gain", repeat)
    network, optimizer = copies_of(view.part.network, view.part.optimizer)
    without_dropout(network)
    held_out, rest = torch.randperm(examples.count, generator=generator).tensor_split([examples.count // 2])
    size = min(settings.minibatch_examples, len(rest))
    minibatches = (examples.rows(drawn(rest, size, generator)) for _ in range(settings.gain_steps))
    return decrease(network, optimizer, examples.rows(held_out), minibatches, view.part.max_gradient_norm)


@torch.no_grad()
def _evaluated(network: Network, examples: LossExamples) -> float:
    with network.evaluating():
        return float(examples.loss(network))
