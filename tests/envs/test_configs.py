"""Every file of ``configs/env`` fits the settings that it names, and can be built where no data set is missing."""

from dataclasses import fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from plasticity.envs.factory import build_stream
from plasticity.envs.registry import STREAMS

FILES = sorted((Path(__file__).parents[2] / "configs" / "env").glob("*.yaml"))
EXPECTED = {
    "ant": (8, False, False),
    "atari": (4, True, False),
    "bandit": (10, True, False),
    "catch": (3, True, False),
    "continual_atari": (18, True, True),
    "continual_dmc": (6, False, True),
    "demon_attack": (6, True, False),
    "dmc": (1, False, False),
    "gym": (2, True, False),
    "halfcheetah": (6, False, False),
    "hopper": (3, False, False),
    "humanoid": (17, False, False),
    **({"minatar": (6, True, False), "continual_minatar": (6, True, True)} if find_spec("minatar") else {}),
    "permuted_pixels": (10, True, True),
    "random_labels": (10, True, True),
    "slippery_ant": (8, False, True),
    "slippery_halfcheetah": (6, False, True),
    "slippery_hopper": (3, False, True),
    "slippery_humanoid": (17, False, True),
    "slippery_walker2d": (6, False, True),
    "slowly_changing_regression": (1, False, False),
    "walker2d": (6, False, False),
}


def settings_of(path: Path) -> Any:
    content = OmegaConf.to_container(OmegaConf.load(path))
    assert isinstance(content, dict)
    cls = STREAMS[content.pop("defaults")[0].removeprefix("_")]
    assert set(content) <= {field.name for field in fields(cls)}
    return cls(**content)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_files_are_described_and_fit_their_settings(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# ")
    assert lines[0].endswith(".")
    assert lines[1] in [f"defaults: [_{name}, _self_]" for name in STREAMS]
    settings_of(path)


def test_every_body_has_a_slippery_floor_as_ant_has() -> None:
    ant = settings_of(FILES[0].with_stem("slippery_ant"))
    for body in ("ant", "halfcheetah", "hopper", "humanoid", "walker2d"):
        plain, slippery = (settings_of(FILES[0].with_stem(name)) for name in (body, f"slippery_{body}"))
        assert slippery == replace(plain, shift="friction") == replace(ant, id=plain.id)


@pytest.mark.parametrize("name", EXPECTED)
def test_files_build_the_problem_they_describe(name: str) -> None:
    (path,) = [path for path in FILES if path.stem == name]
    stream, problem = build_stream(settings_of(path), 0, torch.device("cpu"))
    assert (problem.outputs, problem.discrete, problem.announces_tasks) == EXPECTED[name]
    bounds = 0 if problem.discrete or problem.kind == "examples" else problem.outputs
    assert len(problem.action_low) == len(problem.action_high) == bounds
    assert stream.step == 0
    stream.close()
