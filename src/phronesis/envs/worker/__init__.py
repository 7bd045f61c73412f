"""Catalogues that live in another interpreter: one protocol, spoken with a worker process over lines of JSON."""
