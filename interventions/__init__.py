"""Interventions: the base class, the registry, unit surgery, and one file for each published method."""
