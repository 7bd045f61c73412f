"""Thousands of episodes at once whose model and tools only take their time."""
