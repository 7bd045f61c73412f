"""The tool contract: a typed, documented function the policy may call. Schemas come from hints and docstrings."""
