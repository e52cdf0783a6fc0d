"""Gradual change: how far a problem has come from one task to the next.

A change is sudden, or it drifts over some steps. A number of the environment, such as a friction, then moves from its old value
to its new one; where nothing lies in between, as for a permutation, each example is of the new task with a probability that grows
from 0 to 1. See Liu and Mou (2026), "Do neural networks lose plasticity in a gradually changing world?" (arXiv:2602.09234), who
interpolate tasks and sample them.
"""


def share_of_new(steps: int, drift_steps: int) -> float:
    """Returns how far a change has come, which grows linearly from 0 to 1.

    Args:
        steps: Steps since the change began.
        drift_steps: Steps that it takes; 0 for a sudden one, which is complete at once.
    """
    return max(steps, 0) / drift_steps if steps < drift_steps else 1.0


def between(before: float, after: float, share: float) -> float:
    """Returns the factor between ``before`` and ``after``: at a constant ratio, or a constant difference if one is 0.

    A constant ratio is a straight line in the logarithm, from which factors are drawn: from 0.02 to 2 half of the way is 0.2.

    Args:
        before: Not negative, like ``after``.
        after: The value at share 1.
        share: In [0, 1].
    """
    if share <= 0.0 or share >= 1.0:
        return after if share > 0.0 else before
    if before <= 0.0 or after <= 0.0:
        return before + share * (after - before)
    return float(before ** (1.0 - share) * after**share)


def check_drift(drift_steps: int, period: int, name: str) -> None:
    """Raises ValueError unless a drift is over before the next change.

    Args:
        drift_steps: Steps of a drift.
        period: Steps between changes.
        name: What the period is called.
    """
    if drift_steps < 0 or drift_steps > period:
        raise ValueError(f"drift_steps={drift_steps} must lie in 0..{period}, the {name}, so that one drift ends before the next")
