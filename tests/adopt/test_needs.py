"""The table of what methods need says what is so."""

from plasticity.adopt.needs import PAGE, needs_of, page
from plasticity.interventions.registry import INTERVENTIONS


def test_the_page_is_up_to_date() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert page(text) == text


def test_what_some_methods_need() -> None:
    redo, sam, srank = (needs_of(INTERVENTIONS[name]) for name in ("redo", "sam", "srank"))
    assert (redo.activations, redo.graph, redo.backward, redo.closure, redo.refused) == (True, False, False, False, "")
    assert (sam.activations, sam.closure) == (False, True)
    assert (srank.graph, srank.backward) == (True, True)
    assert needs_of(INTERVENTIONS["layer_norm"]).refused.startswith("changes the structure")
