"""The interface of an agent to the loop and to the observers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from plasticity.envs.experience import Experience
from plasticity.interventions.base import Logs
from plasticity.optimizers.schedule import Moment
from plasticity.updates.updater import Updater


class Agent(Protocol):
    """Acts and learns. Agents share functions and parts, not a base class.

    Attributes:
        parts: The trained parts by name: ``q``; ``actor`` and ``critic``; ``learner``.
    """

    parts: dict[str, Updater]

    def act(self, observations: Tensor) -> Tensor:
        """Returns one action per environment: (N,) int64 or (N, A) float32."""
        ...

    def learn(self, experience: Experience) -> Logs:
        """Learns from one experience, by zero, one or many updates."""
        ...

    def switch_task(self, task: int) -> Logs:
        """Called when ``task`` begins, before its first experience is learned from."""
        ...

    def sample_inputs(self, part: str, count: int, generator: torch.Generator) -> Tensor | None:
        """Returns up to ``count`` inputs of a part's network as it receives them in training, or None when there are none yet.

        Draws from ``generator`` alone, so that measuring changes nothing.
        """
        ...

    def state_dict(self, folder: Path | None = None) -> dict[str, Any]:
        """Returns everything that the next call depends on.

        Args:
            folder: The same at each call. A replay writes its new contents there, and the state names the files that are
                needed, see ``plasticity.agents.replay.segments``. Without it everything is in the state.
        """
        ...

    def load_state_dict(self, state: Mapping[str, Any], folder: Path | None = None) -> None:
        """Restores what ``state_dict`` returned, with the folder that it was given."""
        ...


@runtime_checkable
class Policy(Protocol):
    """What an agent that acts can be evaluated by; neither call changes the agent or draws from its generators."""

    def greedy(self, observations: Tensor) -> Tensor:
        """Returns the actions of highest value or likelihood: (N,) int64 or (N, A) float32."""
        ...

    def sampled(self, observations: Tensor, generator: torch.Generator) -> Tensor:
        """Returns actions drawn from the policy; those of ``greedy`` if it is not stochastic.

        Args:
            observations: (N, *input_shape).
            generator: On the device of the agent's parts.
        """
        ...


def learn_from(agent: Agent, experience: Experience, step: int) -> Logs:
    """Lets an agent learn from an experience, at the learning rates that its schedules have then.

    Args:
        agent: The agent.
        experience: What the stream returned.
        step: The stream's step after it.
    """
    place = experience.place
    moment = Moment(step) if place is None else Moment(step, place.minibatch + 1, place.minibatches)
    for part in agent.parts.values():
        part.moment = moment
    return agent.learn(experience)
