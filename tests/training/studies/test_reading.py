from pathlib import Path
from typing import Any

import pytest
import yaml

from plasticity.training.studies.reading import read_study

SMALL: dict[str, Any] = {
    "common": ["env=catch"],
    "steps": 100,
    "seeds": [3, 5],
    "conditions": {"relu": ["network.activations=[relu]"], "tanh": ["network.activations=[tanh]"]},
    "methods": {"none": None, "l2": None, "both": ["intervention=[l2,redo]"]},
    "leave_out": [{"condition": "tanh", "method": "l2"}],
    "short": {"steps": 10, "seeds": 1, "methods": {"none": None, "l2": None}},
    "report": {
        "outcome": {"value": "rollout/return"},
        "published": [{"condition": "relu", "method": "both", "value": 1.0}],
        "figures": [{"id": "one", "kind": "final", "methods": ["both"]}, {"id": "all", "kind": "final"}],
    },
}
TUNE = {"seeds": [7], "steps": 5, "value": {"value": "rollout/return"}, "grid": {"l2": {"interventions.l2.coefficient": [1, 2]}}}


def written(folder: Path, **changes: Any) -> Path:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({**SMALL, **changes}, sort_keys=False))
    return path


def test_a_study_is_its_conditions_methods_and_seeds(tmp_path: Path) -> None:
    study, _ = read_study(written(tmp_path))
    assert study.name == "mine"
    assert study.seeds == [3, 5]
    assert study.methods == {"none": ["method=none"], "l2": ["method=l2"], "both": ["intervention=[l2,redo]"]}
    assert study.pairs == [("relu", "none"), ("relu", "l2"), ("relu", "both"), ("tanh", "none"), ("tanh", "both")]
    assert study.baseline == "none"


def test_the_short_form_replaces_keys_and_what_names_dropped_things_is_ignored(tmp_path: Path) -> None:
    study, resolved = read_study(written(tmp_path, baseline="both", tune=None), short=True)
    assert (study.steps, study.seeds, list(study.methods), study.baseline) == (10, [0], ["none", "l2"], "none")
    assert resolved["report"]["published"] == []
    assert [figure["id"] for figure in resolved["report"]["figures"]] == ["all"]


def test_what_the_folder_keeps_reads_as_the_same_study(tmp_path: Path) -> None:
    study, resolved = read_study(written(tmp_path, tune=TUNE))
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(resolved, sort_keys=False))
    again, same = read_study(tmp_path / "study.yaml")
    assert same == resolved
    assert (again.pairs, again.seeds, again.methods, again.tune) == (study.pairs, study.seeds, study.methods, study.tune)


BRANCH: dict[str, Any] = {"at": [10], "steps": 5, "remedies": {"unchanged": [], "redo": None}}
MISTAKES = (
    ({"metods": {}}, "metods is unknown (did you mean methods?); a study has name, title"),
    ({"name": "other"}, "name=other must be that of its file, mine"),
    ({"name": "Mine"}, "name=Mine must be lower-case letters, digits and underscores"),
    ({"seeds": 0}, "seeds=0 must be a number of seeds, at least 1, or a list of seeds"),
    ({"seeds": [1, 1]}, "seeds=[1, 1] names a seed twice"),
    ({"steps": 0}, "steps=0 must be a whole number, at least 1"),
    ({"common": "env=catch"}, "common=env=catch must be a list, [env=catch]"),
    ({"common": ["catch"]}, "common: catch must be a word of the command line"),
    ({"common": ["seed=1"]}, "common: seed=1 is not for a study's file: seeds: names them"),
    ({"common": ["hydra/launcher=joblib"]}, "common: hydra/launcher=joblib is for the command line"),
    ({"methods": {}}, "methods is empty"),
    ({"methods": {0.1: None}}, "methods: 0.1 must be a text; write it in quotes"),
    ({"methods": {"a/b": None}}, "methods: 'a/b' names a folder"),
    ({"conditions": {"relu": None}}, "conditions.relu must be a list of words; [] for none"),
    ({"leave_out": [{"condition": "rleu", "method": "l2"}]}, "leave_out.0.condition=rleu is unknown (did you mean relu?)"),
    ({"leave_out": [{"conditon": "relu"}]}, "leave_out.0.conditon is unknown (did you mean condition?)"),
    ({"baseline": "non"}, "baseline=non is unknown (did you mean none?); choose from both, l2, none"),
    ({"branch": {"at": [1]}}, "branch.steps is missing; branch needs at, steps and remedies"),
    ({"branch": {**BRANCH, "at": [10, 10]}}, "branch.at=[10, 10] must be steps in rising order, at least one"),
    ({"branch": {**BRANCH, "at": []}}, "branch.at=[] must be steps in rising order, at least one"),
    ({"steps": 5, "branch": BRANCH}, "branch.at=[10] goes beyond steps=5"),
    ({"branch": {**BRANCH, "repeats": 0}}, "branch.repeats=0 must be a whole number, at least 1"),
    ({"branch": {**BRANCH, "remedies": {"redo": None}}}, "branch.remedies: one of them must change nothing, unchanged: []"),
    ({"branch": {**BRANCH, "measure": ["dormant"]}}, "branch.measure=dormant is unknown"),
    ({"branch": {**BRANCH, "common": ["branch.step=3"]}}, "branch.common: branch.step=3 is not for a study's file: branch.at:"),
    ({"branch": {**BRANCH, "stps": 3}}, "branch.stps is unknown (did you mean steps?)"),
    ({"branch": BRANCH, "baseline": "l2"}, "baseline=l2 is unknown; choose from redo, unchanged"),
    ({"short": {"report": {}}}, "short.report is unknown"),
    ({"short": {"steps": 0}}, "steps=0 must be a whole number"),
    ({"report": {}}, "report.outcome is missing"),
    ({"report": {"outcome": {"valu": "x"}}}, "report.outcome.valu is unknown (did you mean value?)"),
    ({"tune": {**TUNE, "seeds": [3]}}, "tune.seeds=[3] meets seeds=[3, 5] in 3"),
    ({"tune": {**TUNE, "grid": {"none": {"a": [1]}, "l2": {"b": [1, 2]}}}}, "tune.grid: none has 1, l2 has 2; every method"),
    ({"tune": {"seeds": [7]}}, "tune.steps is missing"),
    ({"leave_out": [{"condition": c, "method": m} for c in ("relu", "tanh") for m in ("none", "l2", "both")]}, "nothing to run"),
)


@pytest.mark.parametrize(("changes", "message"), MISTAKES)
def test_a_mistake_is_one_line_with_file_key_and_what_is_allowed(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = written(tmp_path, **changes)
    with pytest.raises(ValueError) as raised:
        read_study(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_key_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("methods: {l2: , l2: }\nshort: {}\nreport: {outcome: {value: x}}\n")
    with pytest.raises(ValueError, match="l2 is there twice"):
        read_study(path)


@pytest.mark.parametrize("key", ["methods", "short", "report"])
def test_what_a_study_cannot_do_without(tmp_path: Path, key: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({name: value for name, value in SMALL.items() if name != key}))
    with pytest.raises(ValueError, match=f"{key} is missing"):
        read_study(path)


def test_a_word_with_brackets_and_no_quotes(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text('common: ["env=catch", network.widths=[16,16], "seed=1"]\n')
    with pytest.raises(ValueError, match=r'is not YAML: .*; a word with brackets needs quotes: "network\.widths=\[16,16\]"$'):
        read_study(path)
    path.write_text('common: ["network.widths=[16,16]"\n')
    with pytest.raises(ValueError, match="is not YAML: ") as raised:
        read_study(path)
    assert "quotes" not in str(raised.value)
