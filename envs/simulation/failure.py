"""What ends a run when an environment fails, and the checks of what environments give."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

_LONGEST: Final = 300
_LARGEST_REWARD: Final = float(np.finfo(np.float32).max)

Array = npt.NDArray[Any]


class EnvironmentFailure(OSError):
    """An environment raised an error, or gave what no agent may learn from.

    It is an OSError, because it ends a run as a full disk does: with one line and exit code 1, and earlier checkpoints as they
    were. The failed step enters no saved replay and no saved statistics.

    Args:
        what: What happened and what is allowed, in one line.
        copy: Which of several copies of the environment, from 0 on; None if that is not known.
    """

    def __init__(self, what: str, copy: int | None = None) -> None:
        super().__init__(what)
        self.copy = copy


def one_line(text: object) -> str:
    """Returns text with all white space as single blanks, cut after 300 characters."""
    line = " ".join(str(text).split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."


def described(error: BaseException) -> str:
    """Returns kind and message of an error in one line."""
    message = one_line(error)
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def finite_reward(reward: Any) -> float:
    """Returns a reward as a number; an array of one element counts as one.

    Raises:
        EnvironmentFailure: It is no number, or not finite in single precision, in which agents learn.
    """
    value: float = reward
    if type(reward) is not float:
        try:
            value = float(np.asarray(reward).item())
        except (TypeError, ValueError):
            raise EnvironmentFailure(f"the reward is {one_line(repr(reward))}; it must be a number") from None
    if not -_LARGEST_REWARD <= value <= _LARGEST_REWARD:
        raise EnvironmentFailure(f"the reward is {value}; it must be finite in single precision")
    return value


def check_finite(observations: Array, copies: Array | None = None) -> None:
    """Checks (N, ...) observations, where ``copies`` (M,) names the copy of each row; integers are always finite.

    Raises:
        EnvironmentFailure: One of them is NaN or infinite.
    """
    if observations.dtype.kind != "f" or np.count_nonzero(np.isfinite(observations)) == observations.size:  # faster than ``all``
        return
    row, *place = np.argwhere(~np.isfinite(observations))[0].tolist()
    value = observations[(row, *place)]
    at = f" at index {', '.join(map(str, place))}" if place else ""
    copy = row if copies is None else int(copies[row])
    raise EnvironmentFailure(f"the observation is {value}{at}; observations must be finite in single precision", copy)


def check_rewards(rewards: Array, copies: int) -> None:
    """Checks the rewards of all copies.

    Raises:
        EnvironmentFailure: They are not ``copies`` numbers that are finite in single precision.
    """
    if rewards.shape != (copies,) or rewards.dtype.kind not in "biuf":
        raise EnvironmentFailure(f"the rewards are {rewards.dtype} {rewards.shape}; they must be {copies} numbers")
    if not np.abs(rewards).max() <= _LARGEST_REWARD:  # also if one is NaN
        copy = int(np.flatnonzero(~(np.abs(rewards) <= _LARGEST_REWARD))[0])
        raise EnvironmentFailure(f"the reward is {rewards[copy]}; it must be finite in single precision", copy)
