"""Online learning, one example at a time: the 784-100-100-100-10 network of permuted MNIST."""

import time
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn import functional

from benchmarks.alternate import alternate, table
from plasticity.agents.parts import PartBuilder
from plasticity.agents.supervised.agent import SupervisedLearner, SupervisedSettings
from plasticity.envs.experience import Examples, Experience
from plasticity.interventions.registry import INTERVENTIONS
from plasticity.networks.torsos.feedforward import MLPSpec
from plasticity.optimizers.factory import OptimizerSettings
from plasticity.updates.execution import Execution

_WIDTHS, _EXAMPLES = [100, 100, 100], 1000
RATES = {"sgd": 0.003, "adam": 0.001}  # learning rates by optimizer


def online_steps(rounds: int, optimizer: str, methods: Sequence[str]) -> str:
    """Times a bare PyTorch loop, and the supervised learner plain and with methods, compiled and not.

    Args:
        rounds: Rounds that count.
        optimizer: A key of ``RATES``.
        methods: Names of interventions, one for each program.
    """
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(_EXAMPLES, 784, generator=generator)
    labels = torch.randint(10, (_EXAMPLES,), generator=generator)
    programs = {"bare PyTorch loop": bare_loop(inputs, labels, optimizer)}
    for label, names in {"plain": [], **{name: [name] for name in methods}}.items():
        programs[label] = learning(inputs, labels, names, optimizer, compile=False)
        programs[f"{label}, compile=true"] = learning(inputs, labels, names, optimizer, compile=True)
    seconds = alternate(programs, rounds, dict.fromkeys(programs, time.process_time))
    references = {"bare loop": "bare PyTorch loop", "plain": "plain", "plain compiled": "plain, compile=true"}
    return table(f"Online permuted MNIST, 784-100-100-100-10, batch 1, {optimizer}", seconds, _EXAMPLES, "examples", references)


def bare_loop(inputs: torch.Tensor, labels: torch.Tensor, name: str) -> Callable[[], None]:
    """Returns what a script would do: forward, cross-entropy, accuracy, backward, step."""
    sizes = [784, *_WIDTHS]
    layers = [module for a, b in zip(sizes, _WIDTHS, strict=False) for module in (nn.Linear(a, b), nn.ReLU())]
    network = nn.Sequential(*layers, nn.Linear(_WIDTHS[-1], 10))
    kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[name]
    optimizer = kind(network.parameters(), lr=RATES[name])
    correct = torch.zeros(len(labels))

    def program() -> None:
        for index in range(len(labels)):
            rows = slice(index, index + 1)
            outputs = network(inputs[rows])
            loss = functional.cross_entropy(outputs, labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            correct[index] = (outputs.argmax(1) == labels[rows]).float().mean()

    return program


def learning(
    inputs: torch.Tensor, labels: torch.Tensor, methods: Sequence[str], optimizer: str, compile: bool
) -> Callable[[], None]:
    """Returns the testbed's learner over the same examples, with all its checks and logs."""
    builder = PartBuilder(
        MLPSpec(widths=_WIDTHS),
        (784,),
        torch.float32,
        OptimizerSettings(name=optimizer, learning_rate=RATES[optimizer]),
        {name: INTERVENTIONS.named(name) for name in methods},
        execution=Execution(compile=compile),
    )
    learner = SupervisedLearner(SupervisedSettings(), 10, classification=True, build_part=builder)
    rows = [slice(index, index + 1) for index in range(len(labels))]
    experiences = [Experience(Examples(inputs[row], labels[row]), 0) for row in rows]

    def program() -> None:
        for experience in experiences:
            learner.learn(experience)

    return program
