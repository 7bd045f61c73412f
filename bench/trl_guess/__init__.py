"""The guess-the-number comparison with TRL."""
