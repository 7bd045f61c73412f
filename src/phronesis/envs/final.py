"""What a final message says in its named lines, e.g. ``answer: 1412``: one value for each name, or none at all.

A message that gives several different values for one name has given none, so that listing candidates never pays.
"""

from __future__ import annotations

import re

LONGEST = 200
"""Characters of a value that is read."""
MOST = 20_000
"""Characters of a message that is read."""


def field(text: str, name: str, longest: int = LONGEST) -> str | None:
    """The one value of the lines ``name: value``; None when there is none, an empty or overlong one, or several different ones.

    >>> field("I looked.\\nAnswer:  42 ", "answer"), field("answer: 1\\nanswer: 2", "answer")
    ('42', None)

    Args:
        text: the message; one of more than 20,000 characters says nothing.
        name: what the line begins with; upper and lower case count the same.
        longest: characters a value may have.
    """
    if len(text) > MOST:
        return None
    lines = re.findall(rf"^[ \t]*{re.escape(name)}[ \t]*:([^\n]*)$", text, re.IGNORECASE | re.MULTILINE)
    found = {" ".join(str(line).split()) for line in lines}
    if len(found) != 1:
        return None
    value = found.pop()
    return value if value and len(value) <= longest else None


def listed(value: str | None) -> list[str]:
    """The parts of a value that is a list, separated by commas.

    >>> listed("p12, p7"), listed(None)
    (['p12', 'p7'], [])
    """
    return [part.strip() for part in (value or "").split(",") if part.strip()]
