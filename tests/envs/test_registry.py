"""What a user may add to the streams and data sets, and what is refused."""

from dataclasses import dataclass, fields
from pathlib import Path

import pytest
import torch

from plasticity.envs.datasets.datasets import DATASETS, Dataset, Split, dataset, load_dataset
from plasticity.envs.environments.gym_stream import GymSettings
from plasticity.envs.factory import build_stream
from plasticity.envs.registry import STREAMS, StreamSettings, stream
from plasticity.envs.tasks.class_pairs import ClassPairsSettings
from plasticity.envs.tasks.task_settings import TaskSettings
from plasticity.envs.tasks.transformed_tasks import TaskStreamSettings
from plasticity.settings.fields import describe, setting
from plasticity.settings.plugins import load_plugins

CPU = torch.device("cpu")
PLUGIN = """
import torch
from plasticity.envs.datasets.datasets import Dataset, dataset

@dataset("three_greys", official_test={official})
def load(split, root):
    \"\"\"Six images of three classes; a test set of three.\"\"\"
    count = 3 if split == "test" else 6
    return Dataset("three_greys", torch.arange(count).view(-1, 1, 1, 1).float() / 10, torch.arange(count) % 3, 3)
"""


@pytest.fixture(autouse=True)
def _without_what_a_test_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    for registry in (STREAMS, DATASETS):
        list(registry)
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))  # type: ignore[attr-defined]
        monkeypatch.setattr(registry, "_places", dict(registry._places))  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", list(STREAMS))
def test_every_stream_says_what_it_is_and_what_each_setting_means(name: str) -> None:
    cls = STREAMS[name]
    assert cls.name == name
    assert (cls.__doc__ or "").splitlines()[0].endswith(".")
    assert [item.name for item in fields(cls) if not describe(cls)[item.name].rule.doc] == []  # type: ignore[arg-type]


@pytest.mark.parametrize("name", list(DATASETS))
def test_every_data_set_says_what_it_is(name: str) -> None:
    assert (DATASETS[name].load.__doc__ or "").splitlines()[0].endswith(".")


def test_a_class_that_is_no_dataclass_of_settings_is_refused() -> None:
    class NoDataclass(TaskSettings):
        pass

    @dataclass
    class NoSettings:
        size: int = 1

    for cls in (NoDataclass, NoSettings):
        with pytest.raises(TypeError, match=r"^env mine: .* must be a dataclass derived from StreamSettings"):
            stream("mine")(cls)  # type: ignore[type-var]
    assert "mine" not in STREAMS


def test_a_second_class_of_the_name_is_refused_naming_both_files() -> None:
    @dataclass
    class Other(StreamSettings):
        pass

    with pytest.raises(ValueError, match=r"^env gym is registered twice: in .*gym_stream\.py and in .*test_registry\.py$"):
        stream("gym")(Other)
    assert STREAMS["gym"] is GymSettings


def test_a_data_set_of_the_name_is_refused_naming_both_files() -> None:
    def load(split: Split, root: Path) -> Dataset:
        raise AssertionError

    with pytest.raises(ValueError, match=r"^dataset mnist is registered twice: in .*mnist\.py and in .*test_registry\.py$"):
        dataset("mnist")(load)


@pytest.mark.parametrize("official", [True, False])
def test_a_data_set_of_a_plugin_is_used_like_any_other(tmp_path: Path, official: bool) -> None:
    with pytest.raises(ValueError, match=r"^env\.dataset=three_greys is unknown"):
        TaskStreamSettings(dataset="three_greys")
    (tmp_path / "greys.py").write_text(PLUGIN.format(official=official))
    load_plugins([str(tmp_path / "greys.py")])
    built, problem = build_stream(TaskStreamSettings(dataset="three_greys", transformation="none"), 0, CPU)
    assert (built.input_shape, problem.outputs) == ((1, 1, 1), 3)
    assert list(built.sets()) == (["train", "test"] if official else ["train"])  # type: ignore[attr-defined]
    pairs = ClassPairsSettings(dataset="three_greys", train_per_class=1, test_per_class=1)
    assert build_stream(pairs, 0, CPU)[1].outputs == 2
    assert len(load_dataset("three_greys", "test").targets) == 3


def test_what_is_no_settings_of_a_stream_is_refused() -> None:
    with pytest.raises(TypeError, match=r"^int is not among the settings of atari, bandit"):
        build_stream(3, 0, CPU)


def test_another_default_keeps_the_rule_of_the_field() -> None:
    @dataclass
    class Base(StreamSettings):
        size: int = setting(3, "How many.", low=2)

    @dataclass
    class Larger(Base):
        size: int = 7

    assert describe(Larger)["size"].rule == describe(Base)["size"].rule
    assert Larger().size == 7
    with pytest.raises(ValueError, match=r"^env\.size=1 must be at least 2$"):
        Larger(size=1)
