"""All generated pages, and the blocks that hand-written pages hold by a mark ``<!-- generated: <name> -->``."""

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from reference_pages import choices, registered, studies

PAGES: Final[Mapping[str, Callable[[], str]]] = {
    "reference/agents.md": registered.agents,
    "reference/streams.md": registered.streams,
    "reference/datasets.md": registered.datasets,
    "reference/networks.md": registered.networks,
    "reference/heads.md": registered.heads,
    "reference/optimizers.md": registered.optimizers,
    "reference/interventions.md": registered.interventions,
    "reference/metrics.md": registered.metrics,
    "reference/methods.md": choices.methods,
    "reference/experiments.md": choices.experiments,
    "reference/studies.md": studies.page,
    "reference/settings.md": choices.run_settings,
}
BLOCKS: Final[Mapping[str, Callable[[], str]]] = {
    "sweeps": choices.sweeps,
    "study_schema": choices.study_schema,
    "report_schema": choices.report_schema,
    **{f"studies of {paper}": partial(studies.of_paper, paper) for paper in studies.PAPERS},
}
MARK: Final = re.compile(r"<!-- generated: ([a-z_ ]+) -->")


def filled(text: str) -> str:
    """Returns a page with its blocks in place of their marks.

    Raises:
        ValueError: There is no block of a name.
    """

    def block(mark: re.Match[str]) -> str:
        if mark[1] not in BLOCKS:
            raise ValueError(f"generated: {mark[1]} is unknown; choose from {', '.join(BLOCKS)}")
        return BLOCKS[mark[1]]()

    return MARK.sub(block, text)
