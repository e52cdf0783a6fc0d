import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from run_folders import config_of, finished, returns, write_run
from scipy import stats

from plasticity.training.reports.analysis.findings import find
from plasticity.training.reports.analysis.numbers import Numbers
from plasticity.training.reports.comparison import read_comparison
from plasticity.training.reports.reading.scalars import lost_rows, read_table
from plasticity.training.reports.specification import report_settings

OUTCOMES = {"none": (0.80, 0.82, 0.84), "redo": (0.83, 0.84, 0.88)}
REDO = {"redo": {"threshold": 0.025}}


def of_two_methods(folder: Path) -> Path:
    for method, outcomes in OUTCOMES.items():
        for seed, value in enumerate(outcomes):
            config = config_of(seed, interventions=REDO if method == "redo" else None)
            write_run(folder / f"{method}{seed}", config, returns(value), ["env=catch", f"seed={seed}"], finished())
    return folder


def test_the_answer_of_a_worked_example(tmp_path: Path) -> None:
    comparison, numbers = read_comparison([of_two_methods(tmp_path)]), Numbers()
    findings = find(comparison, numbers)
    assert (comparison.conditions, comparison.methods, comparison.baseline) == (["main"], ["none", "redo"], "none")
    assert numbers["difference/main/redo/none"].value == pytest.approx(0.03)
    assert numbers["difference/main/redo/none"].interval == pytest.approx((0.0052, 0.0548), abs=5e-5)
    assert numbers["welch/main/redo/none"].interval == pytest.approx((-0.0248, 0.0848), abs=5e-5)
    assert numbers["improvement/main/redo/none"].value == pytest.approx(7.5 / 9)
    assert numbers["main/0/main/none"].text == "0.820 [0.770, 0.870]"
    assert numbers["main/0/main/none"].seeds == [0, 1, 2]
    assert findings.answers == [
        "In rollout/return, redo is better than none: difference 0.030 [0.005, 0.055] (paired by seed, n = 3 of 3)."
    ]
    assert findings.bold["rollout/return"].tolist() == [False, True]
    assert not any("bootstrap" in number["formula"] for number in numbers.records())
    assert any("p of ranks" in warning for warning in comparison.warnings)


def test_an_unfinished_run_takes_interval_and_bold(tmp_path: Path) -> None:
    of_two_methods(tmp_path)
    shutil.rmtree(tmp_path / "redo2")
    write_run(
        tmp_path / "redo2", config_of(2, interventions=REDO), returns(0.88, steps=50), status={"state": "stopped", "step": 50}
    )
    comparison, numbers = read_comparison([tmp_path]), Numbers()
    findings = find(comparison, numbers)
    row = findings.main.set_index("method").loc["redo"]
    assert (row["n"], row["N"]) == (2, 3)
    assert numbers["difference/main/redo/none"].interval is None
    assert not findings.bold["rollout/return"].any()
    assert "1 of 3 unfinished (redo)" in findings.answers[0]
    assert any("redo seed 2 (stopped: ended at step 50 of 100)" in warning for warning in comparison.warnings)


def test_damaged_folders_become_rows_that_say_why(tmp_path: Path) -> None:
    of_two_methods(tmp_path)
    (tmp_path / "none0" / "metrics.csv").write_text("step,name,value\n10,rollout/return,0.8\n20,rollout/return,o.8\n")
    (tmp_path / "none1" / "config.yaml").write_text("steps: [1\n")
    (tmp_path / "none2" / "metrics.csv").unlink()
    (tmp_path / "redo0" / "metrics.csv").write_bytes(b"\x00\xff\x00")
    (tmp_path / "redo1" / "status.json").write_text("{")
    with (tmp_path / "redo2" / "metrics.csv").open("a") as file:
        file.write("100,rollout/return,12")
    (tmp_path / "empty").mkdir()
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "metrics.csv").write_text("")
    comparison = read_comparison([tmp_path])
    runs = comparison.runs.assign(name=[Path(folder).name for folder in comparison.runs["folder"]]).set_index("name")
    assert runs["counted"].to_dict() == {
        "none0": False, "none1": False, "none2": False, "only": False, "redo0": False, "redo1": True, "redo2": True,
    }  # fmt: skip
    assert "damaged" in runs.loc["none0", "why_not"]
    assert "config.yaml cannot be read" in runs.loc["none1", "why_not"]
    assert runs.loc["none1", "method"] == "?"  # its words do not tell which of both it was
    assert "metrics.csv is missing" in runs.loc["none2", "why_not"]
    assert "expected the columns" in runs.loc["redo0", "why_not"]
    assert "status.json cannot be read" in runs.loc["redo1", "error"]
    assert "torn" in runs.loc["redo2", "error"]
    assert set(comparison.values.loc[comparison.values["run"] == list(runs.index).index("redo2"), "value"]) == {0.88}
    find(comparison, Numbers())


def test_nothing_that_can_be_read_is_no_crash(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.yaml").write_text("")
    comparison, numbers = read_comparison([tmp_path]), Numbers()
    assert comparison.runs["state"].tolist() == ["unreadable"]
    assert find(comparison, numbers).answers
    (tmp_path / "b").mkdir()
    with pytest.raises(ValueError, match="holds no runs"):
        read_comparison([tmp_path / "b"])
    with pytest.raises(ValueError, match="is not a folder"):
        read_comparison([tmp_path / "c"])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("provenance.json", '{"overrides": 3, "files": [1], "packages": 3, "machine": 7, "resumed": 5, "choices": 4}'),
        ("status.json", '{"state": 3, "step": "x", "steps": -1, "cpu_seconds": "a", "error": {"a": 1}}'),
        ("config.yaml", "steps: 100\nseed: 99999999999999999999\ninterventions: {}\n"),
        ("config.yaml", "steps: 100\nseed: 0\ninterventions: [redo]\n"),
        ("metrics.csv", "step,name,value\n"),
        ("metrics.csv", "step,name,value\n50,task/number,inf\n60,task/number,-3\n"),
        ("metrics.csv", "step,name,value\n99999999999999999999,a,1\n"),
        ("grid.csv", 'run,outcome,words\nnone0,finished,"\'a"\n'),
    ],
)
def test_files_of_wrong_contents_are_no_crash(tmp_path: Path, name: str, text: str) -> None:
    of_two_methods(tmp_path)
    (tmp_path / name if name == "grid.csv" else tmp_path / "none0" / name).write_text(text)
    findings = find(read_comparison([tmp_path]), Numbers())
    assert findings.main["N"].sum() >= 5


def test_a_grid_names_its_failed_and_missing_runs(tmp_path: Path) -> None:
    rows = ["run,outcome,words"]
    for seed in (0, 1, 2):
        for number, method in ((seed, "none"), (3 + seed, "redo")):
            name = f"{number}_{method}"
            outcome = {5: "failed: not finite in update 93", 4: "started"}.get(number, "finished")
            rows.append(f"{name},{outcome},'intervention=[{method}]' seed={seed}")
            if number != 4:
                config = config_of(seed, interventions=REDO if method == "redo" else None)
                write_run(tmp_path / name, config, returns(0.5, steps=50 if number == 5 else 100))
    (tmp_path / "grid.csv").write_text("\n".join(rows) + "\n")
    comparison = read_comparison([tmp_path])
    assert comparison.runs["state"].tolist() == ["finished", "finished", "finished", "missing", "finished", "failed"]
    assert comparison.runs["method"].tolist() == ["none", "redo", "none", "redo", "none", "redo"]
    assert comparison.runs["error"].tolist()[-1] == "not finite in update 93"
    row = find(comparison, Numbers()).main.set_index("method").loc["redo"]
    assert (row["n"], row["N"]) == (1, 3)


def test_a_study_says_who_is_who_and_what_is_missing(tmp_path: Path) -> None:
    plan = ["cell,condition,method,seed,words,folder,seconds,bytes"]
    for condition in ("tanh", "relu"):
        for method, outcomes in OUTCOMES.items():
            for seed, value in enumerate(outcomes):
                plan.append(f"{len(plan)},{condition},{method},{seed},,,1,1")
                if (condition, method, seed) != ("tanh", "redo", 1):
                    folder = tmp_path / "runs" / condition / method / f"seed_{seed}"
                    rows = [(step, "task/online_accuracy", value) for step in (50, 100)]
                    interventions = REDO if method == "redo" else None
                    write_run(folder, config_of(seed, interventions=interventions), rows, status=finished())
    (tmp_path / "plan.csv").write_text("\n".join(plan) + "\n")
    study = {
        "name": "mine", "title": "Mine", "conditions": {"relu": [], "tanh": []}, "methods": {"redo": None, "none": None},
        "baseline": "none", "report": {"outcome": {"value": "task/online_accuracy", "scale": 100, "label": "accuracy, %"}},
    }  # fmt: skip
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    comparison, numbers = read_comparison([tmp_path]), Numbers()
    assert (comparison.title, comparison.name, comparison.conditions) == ("Mine", "mine", ["relu", "tanh"])
    assert comparison.methods == ["none", "redo"]
    findings = find(comparison, numbers)
    assert (
        findings.answers[0]
        == "relu: In accuracy, %, redo is better than none: difference 3.0 [0.5, 5.5] (paired by seed, n = 3 of 3)."
    )
    assert "1 of 3 unfinished (redo)" in findings.answers[1]
    assert any("tanh / redo seed 1 (missing: its folder is missing)" in warning for warning in comparison.warnings)


def test_a_study_without_a_plan_says_what_is_missing_by_its_settings(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "relu" / "none" / "seed_0", config_of(0), returns(0.5), status=finished())
    leave_out = [{"condition": "tanh", "method": "redo"}]
    study = {"conditions": {"relu": [], "tanh": []}, "methods": {"none": None, "redo": None}, "seeds": 2, "leave_out": leave_out}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    runs = read_comparison([tmp_path]).runs
    cells = [("relu", "none"), ("relu", "redo"), ("tanh", "none")]
    assert list(zip(runs["condition"], runs["method"], runs["seed"], strict=True)) == [
        (*cell, seed) for cell in cells for seed in (0, 1)
    ]
    assert runs["state"].tolist() == ["finished"] + ["missing"] * 5


def test_groups_are_found_from_what_varies(tmp_path: Path) -> None:
    for number, (rate, threshold, seed) in enumerate((r, t, s) for r in (0.001, 0.01) for t in (None, 0.1, 0.2) for s in (0, 1)):
        interventions = {} if threshold is None else {"redo": {"threshold": threshold, "every": 5}}
        config = config_of(seed, interventions=interventions, optimizer={"name": "adam", "learning_rate": rate})
        write_run(tmp_path / str(number), config, returns(0.5), [f"optimizer.learning_rate={rate}"], finished())
    comparison = read_comparison([tmp_path])
    assert comparison.conditions == ["learning_rate=0.001", "learning_rate=0.01"]
    assert comparison.methods == ["none", "redo (threshold=0.1)", "redo (threshold=0.2)"]
    assert comparison.runs.groupby(["condition", "method"]).size().tolist() == [2] * 6
    assert "interventions.redo.every" not in comparison.config
    assert comparison.config["agent.name"] == "dqn"


def test_words_of_groups_name_conditions(tmp_path: Path) -> None:
    for number, (env, seed) in enumerate((e, s) for e in ("catch", "bandit") for s in (0, 1)):
        config = config_of(seed, env={"name": "gym", "id": env, "size": len(env)}, choices={"env": env, "agent": "dqn"})
        write_run(tmp_path / str(number), config, returns(0.5), status=finished())
    assert read_comparison([tmp_path]).conditions == ["catch", "bandit"]


def test_a_method_chosen_by_name_may_set_more_than_interventions(tmp_path: Path) -> None:
    for number, (method, seed) in enumerate((m, s) for m in ("none", "l2_sgd") for s in (0, 1)):
        optimizer = {"name": "adam" if method == "none" else "sgd", "learning_rate": 0.001}
        config = config_of(seed, optimizer=optimizer, choices={"method": method, "env": "catch"})
        write_run(tmp_path / str(number), config, returns(0.5), status=finished())
    comparison = read_comparison([tmp_path])
    assert (comparison.conditions, comparison.methods) == (["main"], ["none", "l2_sgd"])
    assert any("Other differences" in warning and "optimizer.name" in warning for warning in comparison.warnings)


def test_measuring_differently_is_no_condition_but_is_named(tmp_path: Path) -> None:
    for seed in (0, 1, 2):
        config = config_of(seed, metrics={"every_steps": 10 if seed else 20}, run_dir=str(seed), threads=str(seed))
        write_run(tmp_path / str(seed), config, returns(0.5), status=finished())
    comparison = read_comparison([tmp_path])
    assert comparison.conditions == ["main"]
    assert any("metrics.every_steps" in warning for warning in comparison.warnings)
    write_run(tmp_path / "3", config_of(0), returns(0.5), status=finished())
    assert read_comparison([tmp_path]).conditions == ["every_steps=20", "every_steps=10"]


def test_equal_runs_count_once(tmp_path: Path) -> None:
    of_two_methods(tmp_path)
    write_run(tmp_path / "twin", config_of(0, device="cuda"), returns(99.0), status=finished())
    comparison = read_comparison([tmp_path, tmp_path / "none0"])
    assert len(comparison.runs) == 7
    assert comparison.runs["why_not"].iloc[-1].startswith("the same run as")
    assert find(comparison, Numbers()).main["N"].tolist() == [3, 3]
    assert any("count once" in warning for warning in comparison.warnings)


def test_a_run_that_was_made_again_after_a_stop_counts_once(tmp_path: Path) -> None:
    for number, (seed, state) in enumerate([(0, "stopped"), (0, "finished"), (1, "failed"), (1, "stopped"), (2, "finished")]):
        rows = returns(0.5 + seed, steps=100 if state == "finished" else 50)
        write_run(tmp_path / str(number), config_of(seed), rows, status={"state": state, "step": rows[-1][0]})
    comparison = read_comparison([tmp_path])
    assert comparison.runs["counted"].tolist() == [False, True, False, False, True]
    row = find(comparison, Numbers()).main.iloc[0]
    assert (row["n"], row["N"]) == (2, 3)
    assert any("2 runs have the settings and seed of another one" in warning for warning in comparison.warnings)


def test_a_run_that_goes_on_or_was_killed_does_not_count(tmp_path: Path) -> None:
    write_run(tmp_path / "0", config_of(0), returns(0.5, steps=60), status={"state": "running", "step": 60, "steps": 100})
    run = read_comparison([tmp_path]).runs.loc[0]
    assert (run["state"], run["counted"]) == ("running", False)
    assert run["why_not"] == "running: its process was killed at step 60 of 100 or later"


def test_mixtures_are_named(tmp_path: Path) -> None:
    mixed = (
        {"git_revision": "fedcba9876543210", "machine": {"cpu": "AMD EPYC", "capability": "AVX512", "threads": 1}},
        {"machine": {"cpu": "AMD EPYC", "capability": "AVX2", "threads": 8}, "files": {"/a/m.py": "1"}},
        {"files": {"/b/m.py": "2"}, "uncommitted_changes": True, "packages": {"torch": "2.14.0"}},
        {"machine": {"cpu": "other", "capability": "AVX2", "threads": 1}},
    )
    for seed, known in enumerate(mixed):
        write_run(tmp_path / str(seed), config_of(seed), returns(0.5), status=finished(), known=known)
    said = " ".join(read_comparison([tmp_path]).warnings)
    for part in ("code revisions", "AVX512 (1)", "numbers of threads", "m.py", "uncommitted changes", "2.14.0 (1)", "other (1)"):
        assert part in said


def test_older_runs_tell_their_state_by_checkpoint_or_last_row(tmp_path: Path) -> None:
    write_run(tmp_path / "0", config_of(0), returns(0.5))
    write_run(tmp_path / "1", config_of(1), returns(0.5, steps=90))
    write_run(tmp_path / "2", config_of(2), returns(0.5, steps=90))
    (tmp_path / "2" / "checkpoints").mkdir()
    (tmp_path / "2" / "checkpoints" / "step_000000100.pt").touch()
    comparison = read_comparison([tmp_path])
    assert comparison.runs["state"].tolist() == ["finished", "stopped", "finished"]
    assert comparison.runs["step"].tolist() == [100, 90, 100]


def test_names_that_are_asked_for(tmp_path: Path) -> None:
    of_two_methods(tmp_path)
    comparison = read_comparison([tmp_path], report_settings({"outcome": "rollout/return"}), baseline="redo", title="T", name="n")
    assert (comparison.methods, comparison.title, comparison.name) == (["redo", "none"], "T", "n")
    assert (
        find(comparison, Numbers())
        .answers[0]
        .startswith("In rollout/return, none is worse than redo: difference -0.030 [-0.055,")
    )
    with pytest.raises(ValueError, match=r"baseline=rdeo is unknown \(did you mean redo\?\)"):
        read_comparison([tmp_path], baseline="rdeo")


def test_values_are_tidy(tmp_path: Path) -> None:
    rows = [
        (1, "a", 1.0),
        (5, "a", 2.0),
        (5, "task/number", 0.0),
        (6, "a", 3.0),
        (10, "task/number", 1.0),
        (11, "a", float("nan")),
    ]
    write_run(tmp_path / "r", config_of(0, steps=11), rows, status=finished(11))
    values = read_comparison([tmp_path / "r"]).values
    assert values["task"].tolist() == [0, 0, 0, 1, 1, 2]
    assert isinstance(values["name"].dtype, pd.CategoricalDtype)
    assert values["value"].isna().tolist() == [False] * 5 + [True]


def of_a_study(folder: Path, interventions: dict[str, dict[str, float]] | None = None, identity: str = "") -> Path:
    """Writes a study of one method and three seeds, and a run of a fourth seed that it does not plan."""
    for seed in range(4):
        config = config_of(seed, interventions=interventions, log_every_steps=10)
        rows = [row for step, name, value in returns(0.5 + seed) for row in ((step, name, value), (step, CLOCK, 50.0))]
        write_run(folder / "runs" / "main" / "redo" / f"seed_{seed}", config, rows, status=finished())
    lines = [
        "cell,condition,method,seed,words,folder,seconds,bytes,identity",
        *(f"{n},main,redo,{n},,,1,1,{identity}" for n in range(3)),
    ]
    (folder / "plan.csv").write_text("\n".join(lines) + "\n")
    return folder / "runs" / "main" / "redo"


CLOCK = "time/steps_per_second"


def test_a_run_that_its_study_does_not_plan_is_named_and_does_not_count(tmp_path: Path) -> None:
    runs = of_a_study(tmp_path)
    comparison = read_comparison([tmp_path])
    assert comparison.runs["counted"].tolist() == [True, True, True, False]
    assert "1 of 4 runs do not count: main / redo seed 3 (the study does not plan it)." in comparison.warnings
    assert len(comparison.warnings) == 2  # the other one: few seeds
    again = read_comparison([runs / "seed_0", tmp_path, runs / "seed_1"])  # also given alone, first and last
    assert again.runs["counted"].tolist() == [True, True, True, False]
    assert again.methods == ["redo"]


def test_settings_that_a_study_did_not_plan_are_named(tmp_path: Path) -> None:
    runs = of_a_study(tmp_path, REDO, identity="0" * 64)
    config = yaml.safe_load((runs / "seed_1" / "config.yaml").read_text())
    config["interventions"]["redo"]["threshold"] = 0.5
    (runs / "seed_1" / "config.yaml").write_text(yaml.safe_dump(config))
    said = read_comparison([tmp_path]).warnings
    assert (
        "Settings that differ between runs of one method and condition: "
        "main / redo: interventions.redo.threshold=0.025 (seed 0, 2) and 0.5 (seed 1)."
    ) in said
    names = ", ".join(f"main / redo seed {seed}" for seed in range(3))
    assert f"Runs with other settings or plugins than their study plans now: {names}." in said


@pytest.mark.parametrize(
    ("kept", "counted", "told"),
    [
        (lambda step: step <= 80, False, "metrics.csv ends at step 80, the run at step 100"),
        (lambda step: step not in (40, 50), True, "metrics.csv has no rows between steps 30 and 60"),
        (lambda step: step != 10, True, "metrics.csv has no rows between steps 0 and 20"),
    ],
)
def test_rows_that_were_lost_are_named(tmp_path: Path, kept: Callable[[int], bool], counted: bool, told: str) -> None:
    table = of_a_study(tmp_path) / "seed_1" / "metrics.csv"
    head, *lines = table.read_text().splitlines()
    table.write_text("\n".join([head, *(line for line in lines if kept(int(line.partition(",")[0])))]) + "\n")
    comparison = read_comparison([tmp_path])
    assert bool(comparison.runs.loc[1, "counted"]) == counted
    assert any("main / redo seed 1" in warning and told in warning for warning in comparison.warnings)


def test_steps_longer_than_the_interval_lose_no_rows(tmp_path: Path) -> None:
    for every, length in ((10, 16), (100, 96), (100, 64), (7, 7), (10, 1)):
        steps = [step for step in range(length, 3000, length) if step // every > (step - length) // every]
        text = "step,name,value\n" + "".join(f"{step},{CLOCK},1\n" for step in steps)
        (tmp_path / "metrics.csv").write_text(text)
        assert lost_rows(read_table(tmp_path / "metrics.csv")[0], every) == "", (every, length)


def test_a_table_that_goes_back_is_damaged(tmp_path: Path) -> None:
    of_two_methods(tmp_path)
    table = tmp_path / "none0" / "metrics.csv"
    table.write_text(table.read_text() + table.read_text().partition("\n")[2])
    comparison = read_comparison([tmp_path])
    assert comparison.runs.loc[0, "why_not"] == "unreadable: metrics.csv is damaged: row 12 goes back to step 10"
    (tmp_path / "none1" / "status.json").write_text('{"state": "dancing"}')
    assert any("main / none seed 1: status.json has state='dancing'" in each for each in read_comparison([tmp_path]).warnings)


@pytest.mark.parametrize("written", [False, True])
def test_methods_that_add_layers_are_not_compared_in_pairs(tmp_path: Path, written: bool) -> None:
    """Layer normalisation is built into the network, L2 is not; a plugin's method is known by what its runs have written."""
    methods: dict[str, tuple[dict[str, object], str]] = {
        "none": ({}, "plain"),
        "l2": ({"l2": {"coefficient": 0.1}}, "plain"),
        "layer_norm": ({"layer_norm": {"affine": True}}, "normalised"),
        "adds_layers": ({"adds_layers": {}}, "larger"),
    }
    for method, (interventions, structure) in methods.items():
        for seed in range(3):
            known = {"structure": structure} if written else {}
            config = config_of(seed, interventions=interventions)
            write_run(tmp_path / f"{method}{seed}", config, returns(0.5 + 0.1 * seed), status=finished(), known=known)
    rows = find(read_comparison([tmp_path]), Numbers()).differences.set_index("method")
    assert rows["paired"].to_dict() == {"l2": True, "layer_norm": False, "adds_layers": not written}
    assert "Welch" in rows.loc["layer_norm", "formula"]


def test_what_would_be_found_is_said_at_the_level_of_the_interval(tmp_path: Path) -> None:
    """With two methods the first of Holm's intervals has 97.5 %: a difference within it cannot be found with 80 % power."""
    for method, values in {"none": (0.5, 0.6, 0.7), "redo": (0.52, 0.65, 0.71), "l2": (0.5, 0.61, 0.72)}.items():
        interventions = {} if method == "none" else {method: {"strength": 1.0}}
        for seed, value in enumerate(values):
            write_run(
                tmp_path / f"{method}{seed}", config_of(seed, interventions=interventions), returns(value), status=finished()
            )
    numbers = Numbers()
    find(read_comparison([tmp_path]), numbers)
    shown, needed = numbers["difference/main/redo/none"], numbers["detectable/main/redo/none"].value
    assert shown.interval is not None
    assert needed > (shown.interval[1] - shown.interval[0]) / 2
    error = np.std([0.02, 0.05, 0.01], ddof=1) / math.sqrt(3)
    bound = stats.t.ppf(1 - 0.025 / 2, 2)  # 2.5 % in two tails
    power = stats.nct.sf(bound, 2, needed / error)
    assert power == pytest.approx(0.8, abs=1e-3)


def test_relations_stand_in_the_order_of_the_conditions(tmp_path: Path) -> None:
    for number, (width, seed) in enumerate((w, s) for w in ("z", "a") for s in range(4)):
        rows = [(50, "plasticity/rank", float(seed)), (100, "rollout/return", float(seed))]
        config = config_of(seed, env={"name": width}, choices={"env": width})
        write_run(tmp_path / str(number), config, rows, status=finished())
    comparison = read_comparison([tmp_path])
    assert comparison.conditions == ["z", "a"]
    assert find(comparison, Numbers()).relations["condition"].tolist() == ["z", "a"]
