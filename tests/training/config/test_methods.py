"""Methods by name: what a name stands for, what of an experiment stays, and grids over methods."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import run_agent
from plasticity.interventions.registry import INTERVENTIONS
from plasticity.training.config.command_line import CONFIGS
from plasticity.training.config.methods import Method, fit_to_methods, method_names, read_method, spelled, spelled_out
from plasticity.training.config.parsing import Grid, Show, Train, parse

IMAGENET = "experiment=continual_imagenet"


def interventions(*words: str) -> dict[str, dict[str, Any]]:
    """Returns the composed interventions of one run, in order."""
    command = parse(words)
    assert isinstance(command, Train)
    return dict(command.plan.config["interventions"])


def test_every_intervention_is_a_method_of_its_name() -> None:
    assert set(INTERVENTIONS) <= set(method_names([CONFIGS]))
    assert interventions("method=redo") == interventions("intervention=[redo]")


def test_a_method_is_noted_among_the_choices_and_kept_as_it_was_said() -> None:
    command = parse(["method=l2", "interventions.l2.coefficient=1e-3"])
    assert isinstance(command, Train)
    assert command.plan.choices["method"] == "l2"
    assert command.words == ("method=l2", "interventions.l2.coefficient=1e-3")
    assert command.plan.config["interventions"]["l2"]["coefficient"] == 1e-3


def test_the_strategy_of_the_mixed_network_goes() -> None:
    assert list(interventions("experiment=online_permuted_mnist_mixed")) == ["activation_rescale"]
    assert interventions("experiment=online_permuted_mnist_mixed", "method=none") == {}


def test_the_protocol_of_an_experiment_stays_behind_the_method() -> None:
    alone = interventions(IMAGENET)["reset"]
    chosen = interventions(IMAGENET, "method=continual_backprop")
    assert list(chosen) == ["continual_backprop", "reset"]
    assert chosen["reset"] == alone
    assert (alone["head"], alone["optimizer_state"]) == ("zero", "keep")
    assert list(interventions(IMAGENET, "method=none")) == ["reset"]


def test_a_method_that_brings_what_the_protocol_has_brings_its_own_settings() -> None:
    chosen = interventions(IMAGENET, "method=reset_all")
    assert chosen == interventions("intervention=[reset]")
    assert interventions("experiment=incremental_cifar100", "method=l2")["l2"] == interventions("intervention=[l2]")["l2"]


def test_words_of_the_user_win() -> None:
    assert interventions(IMAGENET, "method=reset_all", "interventions.reset.head=zero")["reset"]["head"] == "zero"
    assert "reset" not in interventions(IMAGENET, "method=none", "~interventions.reset")


def test_what_a_method_stands_for() -> None:
    method = Method("m", {"l2": {"coefficient": 0.5}, "redo": {}}, ("network.widths=[8]", "optimizer.name=sgd"))
    assert spelled_out(method, ["network.widths"], ["reset", "l2"], {"l2_init": {}}) == [
        "intervention=[l2,redo,reset]",
        "~interventions.l2_init",
        "interventions.l2.coefficient=0.5",
        "optimizer.name=sgd",
    ]


def test_a_value_is_spelled_for_the_command_line() -> None:
    values = [None, True, 3, 1e-5, "a'b", ["x", 2], {"k": 1.5}]
    assert list(map(spelled, values)) == ["null", "true", "3", "1e-05", "'a\\'b'", "['x',2]", "{k:1.5}"]


def test_texts_tell_of_methods() -> None:
    shown = parse(["experiment=online_permuted_mnist_mixed", "method=none", "--cfg", "job"])
    assert isinstance(shown, Show)
    assert "interventions: {}" in shown.text
    listed = parse(["list=methods"])
    assert isinstance(listed, Show)
    assert any(line.startswith("none ") and "Plain training" in line for line in listed.text.splitlines())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method=l2,redo"], "method=l2,redo: a method is one name; write a file that lists both"),
        (["method=[l2,redo]"], r"method=\[l2,redo\]: a method is one name; write a file that lists both"),
        (["method=redoo"], r"method=redoo is unknown \(did you mean redo\?\); choose from "),
        (["method=l2", "intervention=[redo]"], "method=l2 and intervention= both choose the interventions"),
        (["method=none", "interventions.l2.coefficient=1"], "interventions.l2.coefficient is set, but l2 is not chosen"),
    ],
)
def test_mistakes(words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        parse(words)


# Files of a user


def user_file(tmp_path: Path, name: str, text: str) -> list[str]:
    (tmp_path / "method").mkdir(exist_ok=True)
    (tmp_path / "method" / f"{name}.yaml").write_text(text)
    return ["--config-dir", str(tmp_path), f"method={name}"]


def test_a_user_adds_a_file(tmp_path: Path) -> None:
    text = "# Mine.\ninterventions:\n  redo: {threshold: 0.2}\n  l2:\nwords: ['network.activations=[tanh]', optimizer=sgd]\n"
    command = parse(user_file(tmp_path, "mine", text))
    assert isinstance(command, Train)
    assert list(command.plan.interventions) == ["redo", "l2"]
    assert command.plan.config["interventions"]["redo"]["threshold"] == 0.2
    assert (command.plan.network.activations, command.plan.optimizer.name) == (["tanh"], "sgd")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("mine", "intervention: [l2]", "intervention is unknown (did you mean interventions?); a method has"),
        ("mine", "interventions: {redoo: }", "interventions.redoo is unknown (did you mean redo?)"),
        ("mine", "interventions: {l2: {coeficient: 1}}", "interventions.l2.coeficient is unknown (did you mean coefficient?)"),
        ("mine", "interventions: [l2]", "interventions must hold names with their settings"),
        ("mine", "words: [seed=3]", "seed=3 does not belong to a method"),
        ("mine", "- l2", "must hold settings"),
        ("redo", "interventions: {}", "has the name of an intervention"),
        ("none", "interventions: {}", "method=none has two files"),
    ],
)
def test_a_file_that_is_no_method(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse(user_file(tmp_path, name, text))
    assert message in str(caught.value)
    assert f"{name}.yaml" in str(caught.value)


def test_a_file_is_read_from_the_first_folder_that_has_it(tmp_path: Path) -> None:
    user_file(tmp_path, "mine", "interventions: {l2: {coefficient: 1}}")
    assert read_method("mine", [CONFIGS, tmp_path]) == Method("mine", {"l2": {"coefficient": 1}})
    assert read_method("l2", [CONFIGS]) == Method("l2", {"l2": {}})


# Grids


def grid(words: Sequence[str]) -> Grid:
    command = parse(["-m", *words])
    assert isinstance(command, Grid)
    return command


def test_a_setting_goes_from_the_runs_that_it_does_not_fit_and_equal_runs_are_one() -> None:
    command = grid(["method=none,l2", "interventions.l2.coefficient=1e-3,1e-4", "seed=0,1"])
    assert len(command.said) == len(command.runs) == 6
    assert command.said[:3] == (
        ("method=none", "seed=0"),
        ("method=none", "seed=1"),
        ("method=l2", "interventions.l2.coefficient=0.001", "seed=0"),
    )
    assert command.notes == ("interventions.l2.coefficient does not apply to method=none, whose runs leave it out",)
    assert command.runs[2] == ("intervention=[l2]", "interventions.l2.coefficient=0.001", "seed=0")


def test_a_setting_of_a_swept_list_of_interventions() -> None:
    command = grid(["intervention=[l2],[l2,layer_norm],[]", "interventions.l2.coefficient=1e-4"])
    assert command.said == (
        ("intervention=[l2]", "interventions.l2.coefficient=1e-4"),
        ("intervention=[l2,layer_norm]", "interventions.l2.coefficient=1e-4"),
        ("intervention=[]",),
    )
    assert len(command.notes) == 1


def test_a_setting_that_fits_no_run_is_a_mistake() -> None:
    assert fit_to_methods([("method=none", "interventions.l2.coefficient=1")], [[]])[1] == []
    with pytest.raises(ValueError, match=r"^interventions\.l2\.coefficient is set, but l2 is not chosen"):
        grid(["method=none,redo", "interventions.l2.coefficient=1e-3"])


def test_methods_are_compared_in_folders_of_their_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["env=catch", "network.widths=[8]", "agent.warmup_env_steps=5", "agent.batch_size=4", "metrics.every_steps=0"]
    words = ["-m", "method=none,l2", "interventions.l2.coefficient=1e-3", "seed=0,1", "steps=20", "probe.every_steps=0"]
    assert run_agent.main([*words, *small, f"run_dir={tmp_path / 'grid'}"]) == 0
    assert sorted(path.name for path in (tmp_path / "grid").iterdir() if path.is_dir()) == [
        "0_method=none,seed=0",
        "1_method=none,seed=1",
        "2_interventions.l2.coefficient=1e-3,method=l2,seed=0",
        "3_interventions.l2.coefficient=1e-3,method=l2,seed=1",
    ]
    assert "note: interventions.l2.coefficient does not apply to method=none" in capsys.readouterr().err
    run = tmp_path / "grid" / "2_interventions.l2.coefficient=1e-3,method=l2,seed=0"
    assert "method: l2" in (run / "config.yaml").read_text()
    assert run_agent.main([f"resume={run}", "steps=30", "method=redo"]) == 2
    assert "checkpoint has method=l2, command line has method=redo" in capsys.readouterr().err
    assert run_agent.main([f"resume={run}", "steps=30", "method=l2", "progress=false"]) == 0
