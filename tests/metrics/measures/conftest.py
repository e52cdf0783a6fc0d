"""Fixtures of the tests of measures."""

from part_fixtures import same  # noqa: F401
