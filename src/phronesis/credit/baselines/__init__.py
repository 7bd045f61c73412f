"""Baselines: a whole episode against the others of its group, its step or its role."""
