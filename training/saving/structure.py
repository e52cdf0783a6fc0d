"""A hash that is equal for agents with the same parameters, to which equal seeds give equal initial weights."""

import hashlib

from plasticity.agents.agent import Agent


def structure_hash(agent: Agent) -> str:
    """Returns the SHA-256 of the names and shapes of all parameters, part by part."""
    found = hashlib.sha256()
    for part, updater in agent.parts.items():
        lines = [f"{name} {tuple(value.shape)}" for name, value in updater.network.named_parameters()]
        found.update("\n".join([part, *lines, ""]).encode())
    return found.hexdigest()
