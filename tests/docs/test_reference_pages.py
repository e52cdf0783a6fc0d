"""The generated pages: how docstrings and settings become Markdown, and that nothing registered is missing."""

from dataclasses import dataclass, field

import pytest
from reference_pages import registered
from reference_pages.files import ROOT, choices, started_from
from reference_pages.markdown import card, escaped, settings_table, table
from reference_pages.pages import PAGES, filled
from reference_pages.studies import ELSEWHERE, paper_of, result, studies

from plasticity.agents.registry import AGENTS
from plasticity.envs.datasets.datasets import DATASETS
from plasticity.envs.registry import STREAMS
from plasticity.interventions.registry import INTERVENTIONS
from plasticity.metrics.catalogue import CATALOGUE
from plasticity.networks.registry import HEADS, TORSOS
from plasticity.optimizers.factory import OPTIMIZERS
from plasticity.settings.fields import Settings, setting
from plasticity.training.studies.specification import Source, StudySettings

CARD = """Resets units.

    Paper: Someone 2023, equation 1: tau 0.1, every
    1,000 updates. Equation, per layer: v <- a*b.
    State: sums. Optimizer: untouched (see Paper: above).

    Attributes:
        scale: of the code.
    """


@dataclass
class Example(Settings):
    """Settings of a test."""

    rate: float = setting(0.5, "The rate | of what.", low=0, below=1)
    names: list[str] = setting([], "Names.")
    on: bool = setting(False)
    limit: int | None = setting(None, choices=())
    text: str = ""
    inner: Source = field(default_factory=Source)


def test_text_is_shown_as_it_is_but_for_code() -> None:
    assert escaped("a_b * c[0] <x> {y} | `a_b|<z>` ``*``") == ("a\\_b \\* c\\[0\\] &lt;x&gt; &#123;y} &#124; `a_b|<z>` ``*``")


def test_a_card_has_a_paragraph_for_each_label() -> None:
    assert card(CARD).split("\n\n") == [
        "Resets units.",
        "**Paper:** Someone 2023, equation 1: tau 0.1, every 1,000 updates.",
        "**Equation, per layer:** v &lt;- a\\*b.",
        "**State:** sums.",
        "**Optimizer:** untouched (see Paper: above).",
    ]


def test_settings_are_a_table() -> None:
    assert settings_table(Example, section="probe", leave_out=["text"]).splitlines() == [
        "| setting | default | allowed | meaning |",
        "| --- | --- | --- | --- |",
        "| `probe.rate` | `0.5` | at least 0 and below 1 | The rate &#124; of what. |",
        "| `probe.names` | `[]` |  | Names. |",
        "| `probe.on` | `false` |  |  |",
        "| `probe.limit` | `null` |  |  |",
        "| `probe.inner` | its defaults |  |  |",
    ]
    assert table(("a",), [("b\nc",)]) == "| a |\n| --- |\n| b c |\n"


def test_files_are_found_by_what_they_start_from() -> None:
    assert {"dqn", "c51", "rainbow"} <= set(started_from("agent")["dqn"])
    assert {"ant", "slippery_ant"} <= set(started_from("env")["mujoco"])
    assert {"resnet18", "resnet18_plain", "resnet18_layer_norm"} <= set(started_from("network")["resnet18"])
    assert started_from("optimizer")["adam"] == ["adam", "adam_equal_betas"]
    assert set(started_from("optimizer")) <= set(OPTIMIZERS)


def test_the_comment_of_a_file_is_split_into_paragraphs() -> None:
    rainbow = choices("experiment")["atari_rainbow"]
    assert rainbow.comment[0].startswith("Rainbow (Hessel et al. 2018) on one Atari game")
    assert len(rainbow.comment) == 2
    assert rainbow.body.startswith("defaults:")


@pytest.mark.parametrize(
    ("page", "names"),
    [
        (registered.agents, AGENTS),
        (registered.streams, STREAMS),
        (registered.interventions, INTERVENTIONS),
        (registered.networks, TORSOS),
    ],
)
def test_every_entry_has_a_section(page, names) -> None:  # type: ignore[no-untyped-def]
    headings = [line.removeprefix("## ") for line in page().splitlines() if line.startswith("## ")]
    assert set(names) <= set(headings)


@pytest.mark.parametrize(
    ("page", "names"),
    [
        (registered.datasets, DATASETS),
        (registered.heads, HEADS),
        (registered.optimizers, OPTIMIZERS),
        (registered.metrics, CATALOGUE),
    ],
)
def test_every_entry_has_a_row(page, names) -> None:  # type: ignore[no-untyped-def]
    first = "\n".join(line.split("|")[1] for line in page().splitlines() if line.startswith("| "))
    assert [name for name in names if f"`{name}`" not in first] == []


def test_a_method_says_whether_it_can_be_adopted_and_who_uses_it() -> None:
    sections = {part.partition("\n")[0]: part for part in registered.interventions().split("\n## ")}
    assert "In your own loop: yes. Methods that use it: `redo_nature_ant`." in sections["redo"]
    assert "In your own loop: no, it changes the structure of a network" in sections["layer_norm"]


def test_a_mark_without_a_block_is_refused() -> None:
    with pytest.raises(ValueError, match="generated: nothing is unknown; choose from sweeps"):
        filled("<!-- generated: nothing -->")


def test_what_came_out_is_told_of_studies_that_were_run() -> None:
    known = studies()
    assert "relu: In online accuracy, %, relu\\_strategy is better than none" in result("thesis_main", known["thesis_main"])
    assert result("snr_probability", known["snr_probability"]) == "The study has not been run at length yet."
    assert "../results/running_times/index.html" in result("thesis_times", known["thesis_times"])
    assert set(ELSEWHERE) <= set(known)


def test_a_paper_that_no_page_shows_is_refused() -> None:
    assert paper_of(StudySettings(name="mine")) is None
    with pytest.raises(ValueError, match="'Somebody 2030' is shown by"):
        paper_of(StudySettings(name="mine", source=Source(paper="Somebody 2030")))


def test_the_pages_name_no_place_of_this_machine() -> None:
    for place, page in PAGES.items():
        assert str(ROOT) not in page(), place
