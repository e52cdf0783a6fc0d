"""Settings at which each method acts several times in a run of a few dozen updates, shared by the laws and the agents' tests.

A method that is not here runs with its defaults; where it then does nothing, a law asks for a row.
"""

from typing import Any

FREQUENT: dict[str, dict[str, Any]] = {
    "activation_rescale": {"low_rate": [0.1], "high_rate": [0.1], "maturity_updates": 2},
    "activation": {"activation": "leaky_relu"},
    "adam_rel": {"every_updates": 3},
    "adam_state_reset": {"every_updates": 4},
    "churn": {"coefficient": 1.0, "relative": 0.05, "adapt_after_updates": 5, "average_updates": 6, "lag_updates": 2},
    "colinear_reset": {"threshold": 0.5, "every_updates": 3, "average_updates": 2, "smallest_count": 2},
    "continual_backprop": {"replacement_rate": 0.2, "maturity_updates": 2},
    "dash": {"every_updates": 6, "collect_updates": 2},
    "dr3": {"coefficient": 0.01},
    "feature_norm": {"coefficient": 0.01},
    "fire": {"every_updates": 5, "strength": 0.5},
    "fixed_threshold_resets": {"threshold": 20, "firing_level": 1.0},
    "gradient_norm": {"coefficient": 0.01},
    "hare_and_tortoise": {"momentum": 0.6, "every_updates": 4},
    "infer": {"coefficient": 0.01, "heads": 3, "scale": 5.0},
    "l2": {"coefficient": 0.1},
    "l2_init": {"coefficient": 0.1},
    "load_balancing": {"step_size": 0.05},
    "parseval": {"coefficient": 0.001},
    "perturb_by_dormancy": {"every_updates": 4, "threshold": 0.5},
    "plasticity_injection": {"at_update": 4},
    "reborn": {"dormant_threshold": 0.9, "overactive_threshold": 1.1, "every_updates": 3, "average_updates": 2},
    "redo": {"threshold": 0.6, "every_updates": 3, "average_updates": 2},
    "regrama": {"threshold": 0.9, "every_updates": 3, "average_updates": 2},
    "reset": {"last_layers": 1, "every_updates": 5},
    "sample_weight_decay": {"decay_env_steps": 30},
    "selective_weight_reinitialisation": {"every_updates": 3, "factor": 0.3, "decay": 0.5},
    "self_normalized_resets": {
        "initial_threshold_examples": 20,
        "threshold_floor_examples": 0,
        "threshold_every_updates": 6,
        "firing_level": 1.0,
    },
    "shrink_and_perturb": {"shrink": 0.9, "perturb": 0.1, "every_updates": 2},
    "spectral": {"coefficient": 0.01},
    "srank": {"coefficient": 0.001},
    "wasserstein_init": {"coefficient": 0.1},
    "weight_clipping": {"factor": 0.5},
}
