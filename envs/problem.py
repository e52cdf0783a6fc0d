"""What an agent must know of a stream to be built for it."""

from typing import Any, NamedTuple, Protocol

from gymnasium import spaces

from plasticity.envs.simulation.actions import action_range, require_bounds


class Problem(NamedTuple):
    """What an agent must know of a stream to be built for it.

    Attributes:
        kind: ``environment`` or ``examples``.
        outputs: Actions, action dimensions or classes.
        discrete: Whether outputs are actions or classes to choose from; of examples, otherwise, numbers to predict.
        announces_tasks: Whether task switches are announced.
        action_low: Smallest useful value of each action dimension, see ``actions.action_range``; empty if discrete.
        action_high: Largest useful value of each action dimension; empty if discrete.
        frame_stack: Frames along an observation's first axis, the newest last; 1 if observations are no stacks of frames.
        validates: Whether tasks of examples come with a validation set.
        masks: Whether tasks state which classes count.
    """

    kind: str
    outputs: int
    discrete: bool
    announces_tasks: bool
    action_low: tuple[float, ...] = ()
    action_high: tuple[float, ...] = ()
    frame_stack: int = 1
    validates: bool = False
    masks: bool = False


class Acting(Protocol):
    """The part of an environment stream that defines its problem."""

    @property
    def action_space(self) -> spaces.Space[Any]:
        """The actions of one environment."""
        ...

    @property
    def announces_tasks(self) -> bool:
        """Whether task switches are announced."""
        ...


def environment_problem(stream: Acting) -> Problem:
    """Returns the problem that an environment stream poses.

    Raises:
        ValueError: If continuous actions are not a vector with bounds that an agent can fill.
    """
    space = stream.action_space
    if isinstance(space, spaces.Discrete):
        return Problem("environment", int(space.n), True, stream.announces_tasks)
    assert isinstance(space, spaces.Box)
    require_bounds(space)
    low, high = (tuple(bounds.tolist()) for bounds in action_range(space))
    return Problem("environment", space.shape[0], False, stream.announces_tasks, low, high)
