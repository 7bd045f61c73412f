"""Tasks of `miniweb`: a small town on the web, and one to three things to get done there.

A task is generated from (split, index) alone. Its content key hashes what is to be done and where it must be done, without
names of bystanders; the key decides the split, so no held-out problem can occur in training.
"""

from __future__ import annotations

import random
from typing import Any

from msgspec import Struct

from phronesis.envs.digest import digest, split_of
from phronesis.envs.game_env import levels
from phronesis.records import Task, say
from phronesis.seeding import rng

THINGS = ("kettle", "lamp", "rucksack", "notebook", "umbrella", "blanket", "radio", "teapot", "scarf", "clock")
COLOURS = ("blue", "red", "green", "black", "white", "yellow", "grey")
TWISTS = ("", ", refurbished", ", twin pack", ", mini", ", display model")
"""What tells articles of one name apart."""
PEOPLE = (
    "Ada Lind", "Bela Kovar", "Carla Moreau", "Dario Conti", "Elif Aydin", "Femi Okoye", "Greta Holm", "Hugo Marsh",
    "Ines Duarte", "Jonas Weber", "Kira Novak", "Liam Byrne",
)  # fmt: skip
STREETS = ("Mill Lane", "Harbour Road", "Elm Street", "Station Square", "Quarry Hill", "Orchard Way")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
TIMES = ("12:00", "13:30", "18:00", "19:00", "20:30")
SUBJECTS = (
    "the garden party", "your parcel", "the broken lift", "the choir rehearsal", "the lost key", "the book club", "the invoice",
    "the school trip", "the new timetable", "the roof repair",
)  # fmt: skip
CHATTER = (
    "Just to let you know that nothing has changed since last week.", "Could you have a look when you find the time?",
    "Thanks again for your help the other day!", "Please find the details on the notice board.",
    "We would be glad to see you there.",
)  # fmt: skip
LANGUAGES = ("English", "French", "German", "Polish", "Turkish")
DELIVERY = ("standard", "express", "pick-up")
OWNER = "me@town.test"


class Dials(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How hard the tasks are."""

    min_difficulty: int = 1
    """Easiest level drawn: one thing to do, told in full."""
    max_difficulty: int = 3
    """Hardest level drawn, up to 4. From 2 on there are look-alikes and more details, from 3 on two things to do, at 4 three of
    them, and what to write or where to send it must be looked up in a mail."""

    def validate(self) -> None:
        """Raises ConfigError for values out of range."""
        levels("miniweb", self.min_difficulty, self.max_difficulty, 4)


def task(dials: Dials, split: str, index: int) -> Task:
    """The task of that split and index, the same on every machine."""
    source = rng(index, "miniweb", split)
    difficulty = source.randint(dials.min_difficulty, dials.max_difficulty)
    while True:
        made = _Maker(source, difficulty)
        key = digest(["miniweb", made.goals])
        if split_of(key) == ("train" if split == "train" else "heldout"):
            break
    numbered = [f"{n}. {text}" for n, text in enumerate(made.texts, 1)] if len(made.texts) > 1 else made.texts
    lines = [
        "Get this done on the web site before you, and nothing else:",
        *numbered,
        "Say so, without a call, once it is done.",
    ]
    return Task(
        id=f"miniweb-{split}-{index}",
        env="miniweb",
        messages=(say("user", "\n".join(lines)),),
        payload={"world": made.world, "goals": made.goals},
        split=split,
        difficulty=float(difficulty),
        content_key=key,
    )


class _Maker:
    """Makes a town and things to do in it."""

    def __init__(self, source: random.Random, level: int) -> None:
        self.source, self.level = source, level
        self.goals: list[dict[str, Any]] = []
        self.texts: list[str] = []
        self.world: dict[str, Any] = {
            "goods": self._goods(),
            "mails": self._mails(),
            "slots": self._slots(),
            "account": {
                "email": OWNER, "phone": f"0{source.randint(100, 999)} {source.randint(1000, 9999)}", "newsletter": True,
                "language": source.choice(LANGUAGES),
            },
            "rivals": [],
        }  # fmt: skip
        kinds = ["order", "reply", "delete", "reserve", "account"]
        picked = source.sample(kinds, {1: 1, 2: 1, 3: 2, 4: 3}[level])
        for kind in sorted(picked, key=lambda kind: kind != "delete"):  # what is deleted holds nothing that is needed
            goal, text = getattr(self, f"_{kind}")()
            self.goals.append({"kind": kind, **goal})
            self.texts.append(text)
        self._disturb()

    # ---------------------------------------------------------------------------------- the town

    def _goods(self) -> list[dict[str, Any]]:
        source = self.source
        names = [(c, t) for c in COLOURS for t in THINGS]
        twists = TWISTS if self.level >= 2 else TWISTS[:1]
        found: list[dict[str, Any]] = []
        for colour, thing in source.sample(names, 6 if self.level == 1 else 5):
            for twist in sorted(source.sample(twists, min(len(twists), self.level))):
                cents = source.randrange(500, 9000, 50)
                found.append({"name": f"{colour} {thing}{twist}", "cents": cents, "stock": source.randint(5, 12)})
        source.shuffle(found)
        return [{"sku": f"{chr(65 + n % 26)}{n}", **goods} for n, goods in enumerate(found)]

    def _mails(self) -> list[dict[str, Any]]:
        source = self.source
        people = source.sample(PEOPLE, 4)
        subjects = source.sample(SUBJECTS, len(SUBJECTS))
        count = 4 + 2 * self.level
        found = [
            {"sender": people[n % 4] if n < 4 else source.choice(people), "subject": subjects[n % len(subjects)],
             "body": source.choice(CHATTER)}
            for n in range(min(count, len(subjects)))
        ]  # fmt: skip
        source.shuffle(found)
        return [{"id": str(n + 1), **mail} for n, mail in enumerate(found)]

    def _slots(self) -> list[dict[str, Any]]:
        source = self.source
        found: list[dict[str, Any]] = [
            {"day": day, "time": time, "free": source.choice((0, 2, 4, 6, 8))} for day in DAYS for time in TIMES
        ]
        return [{"id": f"{slot['day'][:2].lower()}{slot['time'][:2]}", **slot} for slot in found]

    def _disturb(self) -> None:
        """What other people do meanwhile: never to what is wanted, or so little that enough is left."""
        source, wanted = self.source, {goal.get("sku") for goal in self.goals} | {goal.get("slot") for goal in self.goals}
        for clock in range(2, 40, 3):
            goods = source.choice(self.world["goods"])
            slot = source.choice(self.world["slots"])
            if goods["sku"] not in wanted:
                self.world["rivals"].append({"clock": clock, "sku": goods["sku"]})
            if slot["id"] not in wanted:
                self.world["rivals"].append({"clock": clock + 1, "slot": slot["id"]})

    def _told(self, about: str, fact: str) -> str:
        """Hides a fact in a mail; returns how the mail is named."""
        mail = self.source.choice(self._unused())
        mail["body"] = f"{self.source.choice(CHATTER)} {about} {fact}."
        return f"the mail from {mail['sender']} about {mail['subject']}"

    def _unused(self) -> list[dict[str, Any]]:
        """Mails that nothing is to be done with and that tell nothing."""
        gone = {id for goal in self.goals for id in goal.get("mails", [goal.get("mail")])}
        return [m for m in self.world["mails"] if m["id"] not in gone and m["body"] in CHATTER]

    # ---------------------------------------------------------------------------------- things to do

    def _order(self) -> tuple[dict[str, Any], str]:
        source = self.source
        goods = source.choice(self.world["goods"])
        count, person = source.randint(1, 3), source.choice(PEOPLE)
        street = f"{source.randint(1, 99)} {source.choice(STREETS)}"
        delivery = source.choice(DELIVERY) if self.level >= 2 else "standard"
        gift = self.level >= 2 and source.random() < 0.5
        where = street
        if self.level == 4:
            where = f"the address in {self._told('The new address is', street)}"
        how = f", {delivery} delivery" if self.level >= 2 else ""
        wrapped = ", as a gift" if gift else ", not as a gift" if self.level >= 2 else ""
        text = f'In the shop, order {count} of the article "{goods["name"]}" for {person}, {where}{how}{wrapped}.'
        wanted = {"sku": goods["sku"], "count": count, "name": person, "street": street, "delivery": delivery, "gift": gift}
        return wanted, text

    def _reply(self) -> tuple[dict[str, Any], str]:
        source = self.source
        mail = source.choice(self._unused())
        code = f"{source.choice(COLOURS)}-{source.randint(100, 999)}"
        what = f'the text "{code}"'
        if self.level == 4:
            what = f"the code word in {self._told('The code word is', code)}, and nothing else"
        return {
            "mail": mail["id"],
            "body": code,
        }, f"Reply to the mail from {mail['sender']} about {mail['subject']} with {what}."

    def _delete(self) -> tuple[dict[str, Any], str]:
        mails, unused = self.world["mails"], self._unused()
        if self.level == 1:
            mail = self.source.choice(unused)
            return {"mails": [mail["id"]]}, f"Delete the mail from {mail['sender']} about {mail['subject']}."
        senders = sorted({m["sender"] for m in mails} - {m["sender"] for m in mails if m not in unused})
        sender = self.source.choice(senders)
        return {"mails": [m["id"] for m in mails if m["sender"] == sender]}, f"Delete all mails from {sender}, and no other."

    def _reserve(self) -> tuple[dict[str, Any], str]:
        source = self.source
        slot = source.choice([s for s in self.world["slots"] if s["free"] >= 2])
        people, person = source.randint(1, slot["free"]), source.choice(PEOPLE)
        when = f"{slot['day']} at {slot['time']}"
        if self.level >= 2 and (same := [s for s in self.world["slots"] if s["day"] == slot["day"] and s["free"] >= people]):
            slot = same[-1]
            when = f"{slot['day']} at the latest time that has room for them"
            for other in self.world["slots"]:  # later ones are full, and stay so
                if other["day"] == slot["day"] and other["time"] > slot["time"]:
                    other["free"] = min(other["free"], people - 1)
        text = f"Reserve a table for {people} on {when}, in the name of {person}."
        return {"slot": slot["id"], "people": people, "name": person}, text

    def _account(self) -> tuple[dict[str, Any], str]:
        source, now = self.source, self.world["account"]
        email = f"{source.choice(PEOPLE).split()[0].lower()}{source.randint(10, 99)}@post.test"
        wanted = {**now, "email": email}
        said = [f"the email address to {email}"]
        if self.level >= 2:
            wanted["language"] = source.choice([name for name in LANGUAGES if name != now["language"]])
            wanted["newsletter"] = False
            said += [f"the language to {wanted['language']}", "the newsletter to off"]
        return {"account": wanted}, f"In the account, change {_listed(said)}."


def _listed(parts: list[str]) -> str:
    """'a, b and c'."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
