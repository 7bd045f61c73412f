"""Credit from a critic: what was expected at a token, a turn or an action."""
