"""Isolation of what a policy runs: one interface, several ways of isolating, each saying what it gives."""

from phronesis.sandbox.box import Box, Child, Entry
from phronesis.sandbox.channel import Refused
from phronesis.sandbox.interpreter import Interpreter, Said
from phronesis.sandbox.ladder import Found, Sandbox, examine, start, survey
from phronesis.sandbox.pool import Pool
from phronesis.sandbox.spec import BoxSpec, Guarantees, Limits, Output, Ran, Tier

__all__ = [
    "Box",
    "BoxSpec",
    "Child",
    "Entry",
    "Found",
    "Guarantees",
    "Interpreter",
    "Limits",
    "Output",
    "Pool",
    "Ran",
    "Refused",
    "Said",
    "Sandbox",
    "Tier",
    "examine",
    "start",
    "survey",
]
