"""Lists of values by name: what the shipped ones hold, what a grid makes of them, and what is refused."""

from pathlib import Path

import pytest
from ale_py import roms

from plasticity.envs.environments.dmc import task_names
from plasticity.training.config.command_line import CONFIGS
from plasticity.training.config.parsing import Grid, Show, parse
from plasticity.training.config.sweeps import spelled_in_full, sweeps_in
from plasticity.training.studies.reading import read_study

SWEEPS = sweeps_in([CONFIGS])
ATARI = SWEEPS["atari_57"]


def mine(folder: Path, text: str) -> list[Path]:
    (folder / "sweep").mkdir(exist_ok=True)
    (folder / "sweep" / "mine.yaml").write_text(text)
    return [CONFIGS, folder]


@pytest.mark.parametrize("name", SWEEPS)
def test_a_list_says_what_it_is_and_where_it_comes_from(name: str) -> None:
    lines = (CONFIGS / "sweep" / f"{name}.yaml").read_text().splitlines()
    assert lines[0].startswith("# ")
    assert lines[0].endswith(".")
    assert lines[2].startswith("# Source: ")


def test_the_games_are_57_that_the_emulator_has_in_alphabetical_order() -> None:
    assert len(ATARI.values) == 57
    assert list(ATARI.values) == sorted(ATARI.values)
    assert set(ATARI.values) <= set(roms.get_all_rom_ids())
    assert SWEEPS["atari_every_fifth"].values == ATARI.values[::5]
    assert len(SWEEPS["atari_every_fifth"].values) == 12


def test_every_game_has_the_scores_of_a_random_agent_and_of_a_better_person() -> None:
    assert set(ATARI.scores) == set(ATARI.values)
    assert all(low < high for low, high in ATARI.scores.values())
    assert (ATARI.scores["pong"], ATARI.scores["demon_attack"]) == ((-20.7, 14.6), (152.1, 1971.0))


def test_the_tasks_are_28_of_the_suite() -> None:
    tasks = SWEEPS["dmc_28"].values
    assert len(set(tasks)) == 28
    assert set(tasks) <= set(task_names())


def test_a_grid_has_a_run_for_each_value(tmp_path: Path) -> None:
    own = mine(tmp_path, "# Mine.\nsetting: env.bits\nvalues: [4, 6]\n")[1]
    words = ["-m", "agent=supervised", "env=slowly_changing_regression", "env.slow_bits=2", f"--config-dir={own}"]
    command = parse([*words, "env.bits=5,@mine"])
    assert isinstance(command, Grid)
    assert [run[-1] for run in command.runs] == ["env.bits=5", "env.bits=4", "env.bits=6"]
    listed = parse(["list=sweeps", f"--config-dir={own}"])
    assert isinstance(listed, Show)
    assert listed.text.endswith("mine  Mine.")
    values = parse(["list=sweeps.mine", f"--config-dir={own}"])
    assert isinstance(values, Show)
    assert values.text == "4\n6"


def test_what_is_no_value_of_a_list_stays_as_it_is() -> None:
    words = ["run_dir=@atari_57", "env.game=pong", "env.game='@atari_57'", "~env", "network.widths=[1,@x]"]
    assert spelled_in_full(words, [CONFIGS], multirun=False) == words


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["env=atari", "env.game=@atari_57"], r"^env\.game=@atari_57 names 57 values; add -m to run them all$"),
        (["-m", "env=atari", "env.game=@atari_75"], r"^env\.game=@atari_75 is unknown \(did you mean atari_57\?\); the lists of"),
        (["-m", "env=atari", "env.game=@dmc_28"], r"the lists of env\.game are @atari_57, @atari_every_fifth$"),
        (["list=sweeps.atari"], r"^list=sweeps\.atari is unknown \(did you mean sweeps\.atari_57\?\)"),
    ],
)
def test_mistakes_are_one_line(words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(words)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "must hold setting: <name>"),
        ("settin: env.game", r"settin is unknown \(did you mean setting\?\); a list has setting, values, scores"),
        ("values: [1]", "setting=None must be the name of a setting"),
        ("setting: env.game\nvalues: [a, a]", "values must be a list of values, each once"),
        ("setting: env.game", "values must be a list of values, each once"),
        ("setting: env.game\nscores: {a: [1, 1]}", r"scores\.a=\[1, 1\] must be two different numbers"),
        ("setting: env.game\nscores: {a: x}", r"scores\.a=x must be two different numbers"),
        ("setting: env.game\nscores: [a]", "scores must hold <value>: "),
        ("setting: [", "cannot be read"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        sweeps_in(mine(tmp_path, text))
    assert str(raised.value).startswith(str(tmp_path / "sweep" / "mine.yaml"))


def test_conditions_of_a_study_are_the_values_of_a_list(tmp_path: Path) -> None:
    folders = mine(tmp_path, "setting: env.task\nvalues: [walker-run, dog/run]\n")
    text = "methods: {none: }\nshort: {conditions: env.task=fish-swim}\nreport: {outcome: {value: x}}\nconditions: "
    path = tmp_path / "study.yaml"
    path.write_text("name: some\n" + text + "env.task=@mine\n")
    made = {"walker-run": ["env.task=walker-run"], "dog-run": ["env.task=dog/run"]}
    assert read_study(path, folders=folders)[0].conditions == made
    assert read_study(path, True, folders)[0].conditions == {"fish-swim": ["env.task=fish-swim"]}
    for wrong, message in (
        ("env.task=@mien", "did you mean mine"),
        ("env.task=", "must be <setting>=<value>"),
        ("env.task=a/b,a-b", "the same name"),
    ):
        path.write_text(f"name: some\n{text}{wrong}\n")
        with pytest.raises(ValueError, match=message):
            read_study(path, folders=folders)
