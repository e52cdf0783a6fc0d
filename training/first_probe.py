"""The probe of every part as it was before its first update."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Any, Final

from plasticity.agents.agent import Agent
from plasticity.metrics.log_values import Measurements
from plasticity.metrics.probe import ProbeObserver, ProbeSettings
from plasticity.metrics.view import Measurable, View
from plasticity.training.task_start import AgentAsGiven, GivenPart, OwnExamples

FIRST_PROBE: Final = "first_probe"


class FirstProbeObserver(ProbeObserver):
    """Probes copies of the networks as they were built, in the step in which a part makes its first update.

    An agent that acts has inputs only once it has acted; and it decides when it makes its first update. So the copies wait
    until then. The values ``first_probe/<key>`` belong to the stream's step before that update.

    Args:
        settings: Of the probe.
        seed: The run's seed.
        agent: With its initial networks; only read.
        own: The examples of the current task; None in an environment, where the latest inputs are taken.
    """

    def __init__(self, settings: ProbeSettings, seed: int, agent: Agent, own: OwnExamples | None) -> None:
        super().__init__(settings, seed)
        self._agent, self._own = agent, own
        self._networks = {name: deepcopy(part.network) for name, part in agent.parts.items()}
        self._unlearned: list[str] = []

    def due(self, before: int, after: int) -> bool:
        """Notes the parts without an update yet; the update makes it due, see ``first_update_made``."""
        self._unlearned = [name for name in self._networks if self._agent.parts[name].steps == 0]
        return False

    def first_update_made(self) -> bool:
        """Returns whether a part made its first update in this step, and was not probed yet."""
        return any(self._agent.parts[name].steps > 0 for name in self._unlearned)

    def measure(self, view: View) -> Measurements:
        """Returns the values of ``ProbeObserver``, as ``first_probe/<key>``, for the parts that made their first update."""
        updated = [name for name in self._unlearned if self._agent.parts[name].steps > 0]
        agent: Measurable = view.agent if self._own is None else self._own.agent()
        parts = {
            name: GivenPart(part, part.examples, self._networks[name]) for name, part in agent.parts.items() if name in updated
        }
        self._unlearned = [name for name in self._unlearned if name not in updated]
        logs = super().measure(replace(view, agent=AgentAsGiven(parts, agent.sample_inputs)))
        return {name.replace("probe/", f"{FIRST_PROBE}/", 1): value for name, value in logs.items()}

    def state_dict(self) -> dict[str, Any]:
        """Returns the parts that had no update before the current step."""
        return {"unlearned": list(self._unlearned)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what ``state_dict`` returned."""
        self._unlearned = list(state["unlearned"])
