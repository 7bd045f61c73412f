"""Weights on their way to a copy that samples: packed into one buffer, then shared between processes or sent over HTTP."""
