"""The scripted customer: answers what is asked, late, wrongly or never, and says yes only to what is wanted.

The customer understands plain words: a question about the email address, about which record is meant, about what to change it
to, and a request to confirm one action on one id. Everything else is not understood, and patience ends.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from phronesis.envs.final import field
from phronesis.envs.talkworld.families import Family

PATIENCE = 4
"""Messages that are not understood until the customer leaves."""
READ = 4000
"""Characters of a message that are heard."""
LONGEST = 20
"""Messages after which the customer leaves."""
_ASKS = {
    "to": ("instead", "change it to", "exchange it for", "would you like", "switch to", "change to"),
    "email": ("email", "e-mail", "mail address"),
    "label": ("which", "what day", "what date", "what colour", "what color", "what copy"),
}
"""Words by which a sentence asks for something; the first that fits counts."""


class Mood(Struct, kw_only=True):
    """All that changes about a customer."""

    heard: dict[str, str] = {}
    """What the customer has said: email, label, to."""
    asked_for: dict[str, str] = {}
    """What the customer has asked to be done: action, item."""
    changed: bool = False
    """The mind was changed."""
    pending: list[str] = []
    """What will be said with the next message."""
    waited: list[str] = []
    """What was answered late."""
    misled: list[str] = []
    """What was answered wrongly."""
    declined: list[str] = []
    """What was not answered."""
    confirmed: list[list[str | None]] = []
    """Actions that were said yes to and not yet done: action, record, option."""
    idle: int = 0
    """Messages that were not understood."""
    messages: int = 0
    """Messages heard."""
    told: list[str] = []
    """Messages with a result."""
    left: bool = False
    """The customer has gone."""


class Customer:
    """One customer of one episode."""

    def __init__(self, family: Family, script: Mapping[str, Any], *, ambiguous: bool, mood: Mood | None = None):
        """A customer.

        Args:
            family: the desk.
            script: what is wanted and how it is told.
            ambiguous: several records could be meant.
            mood: where an episode stands; the beginning by default.
        """
        self.family, self.script, self.ambiguous = family, script, ambiguous
        first = script["wish"]
        self.mood = mood or Mood(asked_for={"action": first["action"], "item": first["item"]})

    @property
    def wanted(self) -> Mapping[str, Any]:
        """What the customer wants at this time."""
        return self.script["after"] if self.mood.changed else self.script["wish"]

    def manner(self, slot: str) -> str:
        """How a question is answered. After a change of mind, wishes are told plainly."""
        return "plain" if self.mood.changed and slot != "email" else str(self.script["manners"][slot])

    def withholds(self, slot: str) -> bool:
        """Whether the customer never says something that the desk needs."""
        needed = {"email": True, "label": self.ambiguous, "to": self.wanted["to"] is not None}[slot]
        return needed and (slot == "email" or not self.mood.changed) and self.manner(slot) == "never"

    def hear(self, text: str) -> str:
        """What the customer answers to a message."""
        mood, text = self.mood, text[:READ]
        mood.messages += 1
        late, mood.pending = mood.pending, []
        said = [self._plainly(slot) for slot in late]
        telling = field(text, "amount") is not None or field(text, "rule") is not None
        answer = self._react(text, telling, late)
        if telling:
            mood.told.append(text)
        if answer is None and not said and not telling:
            mood.idle += 1
            answer = f"I do not follow. I would like to {self._goal()}."
        if mood.idle >= PATIENCE or mood.messages >= LONGEST:
            mood.left = True
            return "This leads nowhere. Goodbye."
        return " ".join([*said, *([answer] if answer else [])]) or "Thank you."

    def _react(self, text: str, telling: bool, late: list[str]) -> str | None:
        """An answer to what the message asks or names, but for what comes late just now; None when it does neither."""
        records = self._ids(self.family.prefix, text)
        options = self._ids(self.family.option_prefix, text)
        actions = [name for name, a in self.family.actions.items() if any(w in text.lower() for w in a.words)]
        if not telling and records and actions and ("?" in text or "confirm" in text.lower()):
            if len(records) > 1 or len(options) > 1 or len(actions) > 1:
                asked = self._asked(text)
                return self._answer(asked) if "label" in asked else "One thing at a time, please."
            return self._decide(actions[0], records[0], options[0] if options else None)
        if len(records) == 1 and records[0] != self.wanted["record"] and not self.withholds("label"):
            return f"That is not the one I mean. {self._describe()}"
        if field(text, "rule") is not None and self._misspoke():
            return f"Wait, I said it wrong. {self._describe()}"
        asked = [slot for slot in self._asked(text) if slot not in late]
        return self._answer(asked) if asked else None

    def _misspoke(self) -> bool:
        """Whether what was said of the wish is not so."""
        truth = {"label": self.wanted["label"], "to": self.wanted["to_label"]}
        return any(self.mood.heard.get(slot, value) != value for slot, value in truth.items())

    def _decide(self, action: str, record: str, option: str | None) -> str:
        """Yes to what is wanted, and to nothing else."""
        wanted, mood = self.wanted, self.mood
        if self.withholds("label") or self.withholds("to"):
            return "I cannot tell."
        if (action, record, option) != (wanted["action"], wanted["record"], wanted["to"]):
            return f"No. {self._describe()}"
        if self.script["after"] is not None and not mood.changed:
            mood.changed = True
            mood.asked_for = {"action": self.wanted["action"], "item": self.wanted["item"]}
            return f"No, I have changed my mind. {self._describe()}"
        if [action, record, option] not in mood.confirmed:
            mood.confirmed.append([action, record, option])
        return "Yes, please do that."

    def _describe(self) -> str:
        """The whole wish, without ids."""
        self._plainly("label")
        said = f"I would like to {self._goal()}, {self.family.naming.format(label=self.wanted['label'])}"
        if self.wanted["to"] is not None and not self.withholds("to"):
            self._plainly("to")
            said += f", and have {self.family.naming.format(label=self.wanted['to_label'])} instead"
        return f"{said}."

    def _goal(self) -> str:
        return self.family.actions[self.wanted["action"]].goal.format(item=self.wanted["item"])

    def _answer(self, slots: list[str]) -> str:
        return " ".join(self._one(slot) for slot in slots[:2])

    def _one(self, slot: str) -> str:
        """The answer to one question, in the customer's manner."""
        mood, manner = self.mood, self.manner(slot)
        if manner == "never":
            if slot not in mood.declined:
                mood.declined.append(slot)
            return "I would rather not say." if slot == "email" else "I do not know."
        if manner == "late" and slot not in mood.waited:
            mood.waited.append(slot)
            mood.pending.append(slot)
            return "One moment, I have to look."
        if manner == "wrong" and slot not in mood.misled:
            mood.misled.append(slot)
            return self._tell(slot, self.script["wrong"][slot])
        return self._plainly(slot)

    def _plainly(self, slot: str) -> str:
        truth = {"email": self.script["email"], "label": self.wanted["label"], "to": self.wanted["to_label"]}[slot]
        return self._tell(slot, truth)

    def _tell(self, slot: str, value: str) -> str:
        self.mood.heard[slot] = value
        if slot == "email":
            return f"It is {value}."
        said = self.family.naming.format(label=value)
        return f"{said[0].upper()}{said[1:]}."

    def _asked(self, text: str) -> list[str]:
        """What the sentences of a message ask for, each once, in order."""
        found: list[str] = []
        for sentence in re.split(r"[.?!\n]+(?:\s|$)", text.lower()[:2000]):
            slot = next((slot for slot, words in _ASKS.items() if any(word in sentence for word in words)), None)
            if slot == "to" and self.wanted["to"] is None:
                slot = "label" if "which" in sentence else None
            if slot is not None and slot not in found:
                found.append(slot)
        return found

    def _ids(self, prefix: str, text: str) -> list[str]:
        return list(dict.fromkeys(re.findall(rf"\b{prefix}\d{{3}}\b", text)))
