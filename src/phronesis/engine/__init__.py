"""Policies: the embedded engine and scripted replies."""
