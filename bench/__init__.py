"""Measurements against a named peer or the machine's own bound, each a ratio taken side by side in one run."""
