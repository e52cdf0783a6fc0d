"""What is stored for Hydra to compose from."""

import pytest
from omegaconf import OmegaConf

from plasticity.interventions.registry import INTERVENTIONS
from plasticity.networks.spec import NetworkSpec
from plasticity.training.config.config_store import AGENTS, SECTIONS, STREAMS, _defaults
from plasticity.training.config.settings import RunSettings

CLASSES = [RunSettings, NetworkSpec, *SECTIONS.values(), *INTERVENTIONS.values()]
CLASSES += [*(agent.settings for agent in AGENTS.values()), *(settings for settings, _ in STREAMS.values())]


@pytest.mark.parametrize("settings", CLASSES)
def test_defaults_are_what_omegaconf_makes_of_the_class(settings: type) -> None:
    assert repr(_defaults(settings)) == repr(OmegaConf.to_container(OmegaConf.structured(settings)))
