"""The fixtures of tests that build parts."""

from part_fixtures import builder, same, through_disk  # noqa: F401
