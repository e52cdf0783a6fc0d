"""Which weights count as the initial ones, for methods that keep them, where a run branches from another."""

from collections.abc import Mapping
from typing import Final

from torch import Tensor

from plasticity.interventions.base import Update

START: Final = "start"
RUN_INITIAL: Final = "run_initial"
REFERENCES: Final = (START, RUN_INITIAL)
REFERENCE_DOC: Final = (
    "Which weights count as the initial ones where the method is added to a run that branches: ``start``, at the branch; "
    "or ``run_initial``, those that the parent run started with. Both are the same in a run that is not a branch."
)


def initial_values(u: Update, reference: str) -> Mapping[str, Tensor]:
    """Returns the parameters and buffers that count as the initial ones, by name; to be copied by a method in ``attach``.

    A method that a branch inherits from its parent continues with what it remembers, regardless of its setting.

    Args:
        u: The view in ``attach``.
        reference: One of ``REFERENCES``.
    """
    if reference == RUN_INITIAL and u.run_initial is not None:
        return u.run_initial
    return u.network.state_dict()
