"""Conformance: worked numbers of published formulas against the functions that training and evaluation use.

``python -m phronesis.conformance FILE.json [--json]`` runs a file of cases. One table module per area maps a formula's id to a
function that hands a case's lists to the real function and its result back; no table computes anything itself.
"""
