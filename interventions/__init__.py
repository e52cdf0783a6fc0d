"""Interventions. Importing this package registers every published method."""

from interventions import (  # noqa: F401
    adam_state_reset,
    continual_backprop,
    l2,
    l2_init,
    layer_norm,
    load_balancing,
    redo,
    reset,
    shrink_and_perturb,
)
