"""What is stored for Hydra to compose from."""

import pytest
from omegaconf import OmegaConf

from plasticity.training.config.choices import REGISTERED, defaults_of
from plasticity.training.config.config_store import SECTIONS, grown, times
from plasticity.training.config.settings import RunSettings

CLASSES = [RunSettings, *SECTIONS.values()]
CLASSES += [kind.settings(entry) for kind in REGISTERED.values() for entry in kind.registry.values()]


@pytest.mark.parametrize("settings", CLASSES)
def test_defaults_are_what_omegaconf_makes_of_the_class(settings: type) -> None:
    assert repr(defaults_of(settings)) == repr(OmegaConf.to_container(OmegaConf.structured(settings)))


def test_every_kind_is_there() -> None:
    assert len(CLASSES) > 60


def test_counts_that_experiments_derive_by_hand() -> None:
    assert grown(256, 4, 0.5, 8) == 512
    assert grown(10, 3, 1.0, 7) == 28  # 30, cut to a multiple of 7
    assert grown(256, 1, 0.74, 8) == 256
    assert times(6250, 256) == 1_600_000
