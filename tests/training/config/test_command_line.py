"""Words of the command line, taken apart and put together again."""

from pathlib import Path

import pytest

from plasticity.training.config.parsing import Train, parse
from plasticity.training.config.words import parse_overrides, plugin_places, quoted, with_absolute_plugins

TEXTS = ["", "a b", "it's", "''", "a\\b", "a\\", "a\\'b", 'x"y', "é,ü=[c]", "(1)"]


@pytest.mark.parametrize("text", TEXTS)
def test_a_quoted_text_is_read_back_as_it_was(text: str) -> None:
    assert parse_overrides([f"run_dir={quoted(text)}"])[0].value() == text
    assert parse_overrides([f"plugins=[{quoted(text)},b]"])[0].value() == [text, "b"]


def test_files_of_plugins_become_absolute_and_modules_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = with_absolute_plugins(["seed=1", 'plugins=[mine.py,"it\'s mine.py",package.module,/other/file.py]'])
    assert words[0] == "seed=1"
    mine = [str(tmp_path / "mine.py"), str(tmp_path / "it's mine.py")]
    assert plugin_places(words) == [*mine, "package.module", "/other/file.py"]
    assert with_absolute_plugins(words) == words


def test_names_of_the_users_own_need_no_plus() -> None:
    words = ["agent=sac", "env=gym", "network.parts.critic.widths=[3]", "env.kwargs.g=9.8", "optimizer.parts.actor.epsilon=0.1"]
    command = parse(words)
    assert isinstance(command, Train)
    config = command.plan.config
    assert config["network"]["parts"] == {"critic": {"widths": [3]}}
    assert config["env"]["kwargs"] == {"g": 9.8}
    assert config["optimizer"]["parts"] == {"actor": {"epsilon": 0.1}}
    again = parse(command.words)  # what a run folder tells can be said again
    assert isinstance(again, Train)
    assert again.plan.config == config
