from pathlib import Path

import pytest

from plasticity.training.config.command_line import Composer
from plasticity.training.config.parsing import Show, parse
from plasticity.training.studies.asking import Study, studies_in
from plasticity.training.studies.reading import read_study

NAMES = studies_in(Composer())
FILE = "methods: {none: }\nshort: {seeds: 1}\nreport: {outcome: {value: x}}\n"


def test_a_study_is_asked_for_by_name_or_path(tmp_path: Path) -> None:
    asked = parse(["study=thesis_main", "short=true"])
    assert isinstance(asked, Study)
    assert (asked.folder, asked.settings.seeds, asked.plan, asked.retry) == (
        Path("studies/thesis_main_short"),
        [0, 1],
        False,
        False,
    )
    path = tmp_path / "mine.yaml"
    path.write_text(FILE)
    asked = parse([f"study={path}", "plan=true", "retry=true", "run_dir=s", "device=cuda", "hydra/launcher=joblib"])
    assert isinstance(asked, Study)
    assert (asked.folder, asked.plan, asked.retry, asked.extra) == (Path("s"), True, True, ("device=cuda",))
    assert asked.launcher == ("hydra/launcher=joblib",)
    assert parse([f"study={path}"]).folder == Path("studies/mine")  # type: ignore[union-attr]


def test_a_users_folder_has_studies_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "study/mine.yaml").write_text(f"# What is mine.\n{FILE}")
    asked = parse(["study=mine", "--config-dir", str(tmp_path)])
    assert isinstance(asked, Study)
    assert asked.file == tmp_path / "study/mine.yaml"
    listed = parse(["list=studies", "--config-dir", str(tmp_path)])
    assert isinstance(listed, Show)
    lines = listed.text.splitlines()
    assert len(lines) == len(NAMES) + 1
    assert lines[-1].split(maxsplit=1) == ["mine", "What is mine."]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["study=thesis_mian"], "study=thesis_mian is unknown (did you mean thesis_main?); choose from "),
        (["study=./no.yaml"], "study=./no.yaml: there is no such file"),
        (["study=thesis_main", "seed=3"], "seed=3 belongs in the study's file; study= takes study, short, plan"),
        (["study=thesis_main", "shrt=true"], "(did you mean short?)"),
        (["study=thesis_main", "short=1"], "short=1 must be true or false"),
        (["study=thesis_main", "short=true", "short=true"], "short is given twice"),
        (["study=thesis_main", "device=cpu,cuda"], "device=cpu,cuda names several values"),
        (["study=thesis_main", "hydra.sweep.dir=x"], "of Hydra's words a study takes only the launcher's"),
        (["study=thesis_main", "-m"], "--multirun does not go with study="),
    ],
)
def test_mistakes_are_one_line(words: list[str], message: str) -> None:
    with pytest.raises(ValueError) as raised:
        parse(words)
    assert message in str(raised.value)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("short", [False, True])
def test_every_study_that_comes_along_can_be_read(name: str, short: bool) -> None:
    path = Composer().configs / "study" / f"{name}.yaml"
    study, _ = read_study(path, short)
    assert study.name == name
    assert path.read_text().startswith("# ")
