"""The fixtures of tests that restart units in optimizers and save their state."""

from part_fixtures import builder, same, through_disk  # noqa: F401
from surgery_fixtures import admit, layout, patient, trained  # noqa: F401
