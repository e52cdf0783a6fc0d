"""Schedules of scalars."""


def linear(step: int, start: float, end: float, over_steps: int) -> float:
    """Goes from ``start`` at step 0 to ``end`` at ``over_steps`` linearly and stays there."""
    if over_steps <= 0 or step >= over_steps:
        return end
    return start + (end - start) * step / over_steps
