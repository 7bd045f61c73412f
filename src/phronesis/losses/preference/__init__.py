"""Losses over pairs: one answer preferred to another."""
