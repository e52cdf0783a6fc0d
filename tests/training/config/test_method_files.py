"""The files of ``configs/method``: each composes, names its source, and sets the values of the papers."""

from functools import cache
from typing import Any

import pytest

from plasticity.training.config.command_line import CONFIGS
from plasticity.training.config.parsing import Train, parse

PLAIN = ("none", "reset_all", "reset_head")  # of no paper
NAMES = sorted(path.stem for path in (CONFIGS / "method").glob("*.yaml"))
OWN = {
    "permuted_mnist": "online_permuted_mnist_full",
    "imagenet": "continual_imagenet",
    "cifar": "incremental_cifar100",
    "ant": "slippery_ant_ppo",
    "regression": "slowly_changing_regression",
    "shakespeare": "permuted_shakespeare",
    "thesis": "online_permuted_mnist",
    "strategy": "online_permuted_mnist",
    "strategy_code": "online_permuted_mnist_mixed",
    "two_hot": "bandit_plasticity",
    "two_hot_smoothed": "bandit_plasticity",
    "5_95": "incremental_cifar100",
    "non_affine_batch_norm": "incremental_cifar100",
    "normalised_skip": "incremental_cifar100",
    "load_balancing_40_60": "incremental_cifar100",
    "load_balancing_50": "incremental_cifar100",
}


@cache
def composed(*words: str) -> dict[str, Any]:
    """Returns the settings of one run."""
    command = parse(words)
    assert isinstance(command, Train)
    return dict(command.plan.config)


def interventions(*words: str) -> dict[str, dict[str, Any]]:
    """Returns the interventions of one run, in order."""
    return dict(composed(*words)["interventions"])


def own_experiment(name: str) -> str:
    """Returns the experiment that a method belongs to, by the longest ending of its name that is known."""
    endings = [ending for ending in OWN if name.endswith(ending)]
    return OWN[max(endings, key=len)] if endings else "random_label_mnist"


@pytest.mark.parametrize("name", NAMES)
def test_a_method_says_in_a_line_what_it_does_and_where_it_comes_from(name: str) -> None:
    lines = (CONFIGS / "method" / f"{name}.yaml").read_text().splitlines()
    assert lines[0].startswith("# ")
    assert lines[0].endswith(".")
    if name not in PLAIN:
        assert lines[2].startswith("# Source: ")
        assert any(
            place in " ".join(lines) for place in ("section", "appendi", "code", "figure", "table", "permuted Shakespeare")
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_method_composes_on_its_own_experiment(name: str) -> None:
    experiment = f"experiment={own_experiment(name)}"
    kept = composed(experiment, "method=none")["protocol"]
    chosen = list(interventions(experiment, f"method={name}"))
    assert set(kept) <= set(chosen)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_method_composes_without_an_experiment(name: str) -> None:
    words = (f"method={name}", "env=random_labels", "env.dataset=digits", "agent=supervised")
    words = (f"method={name}", "agent=dqn") if "two_hot" in name else words
    if name == "normalised_skip":  # the plain network has no skip paths
        with pytest.raises(ValueError, match="normalised_skip is unknown"):
            parse(words)
        return
    assert composed(*words)["steps"] > 0


def test_the_head_of_continual_imagenet_is_reset_behind_each_row() -> None:
    chosen = interventions("experiment=continual_imagenet", "method=load_balancing_40_60_imagenet")
    assert list(chosen) == ["batch_norm", "load_balancing", "l2", "reset"]
    assert (chosen["load_balancing"]["low"], chosen["load_balancing"]["high"]) == (0.4, 0.6)
    assert (chosen["load_balancing"]["step_size"], chosen["load_balancing"]["decay"]) == (0.001, 0.99)
    assert (chosen["l2"]["coefficient"], chosen["l2"]["include"]) == (3e-6, "weights")
    assert (chosen["reset"]["last_layers"], chosen["reset"]["head"]) == (1, "zero")
    row = composed("experiment=continual_imagenet", "method=l2_nature_imagenet")
    assert (row["optimizer"]["learning_rate"], row["interventions"]["l2"]["include"]) == (0.03, "all")


def test_the_weight_decay_of_incremental_cifar_stays_behind_each_row() -> None:
    chosen = interventions("experiment=incremental_cifar100", "method=cbp_nature_cifar")
    assert list(chosen) == ["continual_backprop", "l2"]
    backprop = chosen["continual_backprop"]
    assert (backprop["replacement_rate"], backprop["maturity_updates"], backprop["utility"]) == (1e-5, 1000, "contribution")
    assert (chosen["l2"]["coefficient"], chosen["l2"]["include"]) == (5e-4, "all")
    noisy = interventions("experiment=incremental_cifar100", "method=shrink_and_perturb_nature_cifar")["shrink_and_perturb"]
    assert (noisy["every_updates"], noisy["shrink"], noisy["perturb"]) == (1, 1.0, 1e-5)
    assert (noisy["noise"], noisy["at_task_switch"]) == ("gaussian", False)


@pytest.mark.parametrize(
    ("name", "normalisation", "coefficient"),
    [
        ("none", ["batch"], 5e-4),
        ("batch_norm_l2_cifar", ["batch"], 5e-4),
        ("batch_norm_cifar", ["batch"], 0.0),
        ("l2_balance_cifar", [], 5e-4),
        ("layer_norm_l2_cifar", ["layer"], 5e-4),
        ("non_affine_batch_norm", ["batch_non_affine"], 5e-4),
        ("non_affine_layer_norm_l2_cifar", ["layer_non_affine"], 5e-4),
    ],
)
def test_load_balancing_has_l2_of_the_weights_alone_on_cifar(name: str, normalisation: list[str], coefficient: float) -> None:
    row = composed("experiment=incremental_cifar100_balance", f"method={name}")
    l2 = row["interventions"]["l2"]
    assert (row["network"]["normalisation"], l2["coefficient"], l2["include"]) == (normalisation, coefficient, "weights")
    assert list(row["interventions"]) == ["l2"]


def test_the_strategies_of_the_thesis() -> None:
    mixed = "experiment=online_permuted_mnist_mixed"
    code = interventions(mixed, "method=combined_strategy_code")["activation_rescale"]
    assert code["low_rate"] == [1e-4, 1e-4, 1e-6, 1e-6, 1e-4]
    assert code["high_rate"] == [1e-5] * 5
    assert interventions(mixed, "method=opposite_strategy")["activation_rescale"]["strategy"] == "opposite"
    assert interventions(mixed, "method=l2_thesis")["l2"]["coefficient"] == 1e-3


def test_the_rows_of_the_ant() -> None:
    row = composed("experiment=slippery_ant_ppo", "method=cbp_nature_ant")
    assert row["optimizer"]["betas"] == [0.99, 0.99]
    assert list(row["interventions"]) == ["continual_backprop", "l2"]
    backprop = row["interventions"]["continual_backprop"]
    assert (backprop["replacement_rate"], backprop["maturity_updates"]) == (1e-4, 10000)
    assert (backprop["bias_compensation"], backprop["optimizer_state"]) == (False, "keep")


def test_a_loss_is_a_method() -> None:
    row = composed("experiment=bandit_plasticity", "method=layer_norm_l2_two_hot_smoothed")
    assert (row["agent"]["loss"], row["agent"]["label_smoothing"]) == ("two_hot", 0.1)
    assert row["agent"]["label_smoothing_decoding"] == "published"
    assert list(row["interventions"]) == ["layer_norm", "l2"]
    assert row["interventions"]["l2"]["coefficient"] == 1e-6


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(("beginning", "chosen"), [("", []), ("l2_small_", ["l2"]), ("layer_norm_", ["layer_norm"])])
def test_the_grid_of_the_bandit_has_every_combination(beginning: str, chosen: list[str], smoothing: float) -> None:
    ending = "_smoothed" if smoothing else ""
    rows = {f"{beginning}two_hot{ending}": chosen, f"layer_norm_l2_two_hot{ending}": ["layer_norm", "l2"]}
    for name, interventions_of_it in rows.items():
        row = composed("experiment=bandit_plasticity", f"method={name}")
        assert (row["agent"]["loss"], row["agent"]["label_smoothing"]) == ("two_hot", smoothing)
        assert list(row["interventions"]) == interventions_of_it
        assert row["interventions"].get("l2", {"coefficient": 1e-6})["coefficient"] == 1e-6


def test_self_normalized_resets_on_shakespeare() -> None:
    chosen = interventions("experiment=permuted_shakespeare", "method=snr_l2_shakespeare")
    resets = chosen["self_normalized_resets"]
    assert (resets["rejection_probability"], resets["estimator"]) == (0.05, "exponential")
    assert (resets["initial_threshold_examples"], resets["threshold_floor_examples"]) == (128, 0)
    assert (chosen["l2"]["coefficient"], chosen["l2"]["include"]) == (2e-4, "all")
