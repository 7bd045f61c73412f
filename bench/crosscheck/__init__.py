"""Losses and advantages against TRL and verl on random inputs: ``python -m bench.crosscheck``."""
