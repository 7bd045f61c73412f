"""Phronesis trains and runs language-model agents that think and act in one stream, and shows what made them better."""

__version__ = "0.1.0"
