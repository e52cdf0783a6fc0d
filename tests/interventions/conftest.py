"""The fixtures of tests that operate on networks."""

from surgery_fixtures import admit, layout, patient, trained  # noqa: F401
