"""Environments played by other processes, on any machine, that register with a run over HTTP."""
