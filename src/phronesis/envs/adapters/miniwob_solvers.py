"""Scripted players of MiniWoB pages, who read what an agent reads: the instruction and the page as text with numbers.

A player chooses one call at a time from what the page shows now, and from how many calls were made before.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct

from phronesis.envs.trl_style import calling
from phronesis.records import Message
from phronesis.tools.browser import Element, Outline


class Sight(Struct, frozen=True, kw_only=True):
    """What a player sees."""

    asked: str
    """The instruction."""
    page: Outline
    turn: int
    """Calls made before."""

    def of(self, *roles: str) -> list[Element]:
        """Elements of these roles."""
        return [e for e in self.page.elements if e.role in roles]

    def named(self, label: str, *roles: str) -> Element:
        """The element with this text, if need be in another case; StopIteration when there is none."""
        fit = [e for e in self.page.elements if not roles or e.role in roles]
        exact = (e for e in fit if e.label.strip() == label.strip())
        return next(exact, None) or next(e for e in fit if e.label.strip().lower() == label.strip().lower())

    def quoted(self) -> list[str]:
        """What stands in quotation marks in the instruction."""
        return re.findall(r'"([^"]*)"', self.asked)

    def boxes(self) -> list[tuple[int, bool, str]]:
        """Boxes and buttons of choice: number, whether on, and the text behind each."""
        found = (re.search(r"\[(\d+) (?:checkbox|radio) (on|off)\] *(.*)$", line) for line in self.page.lines)
        return [(int(m[1]), m[2] == "on", m[3].strip()) for m in found if m]


Player = Callable[[Sight], Message]


def click(element: Element | int) -> Message:
    """Clicks."""
    return calling("click", {"id": element if isinstance(element, int) else element.id})


def submit(at: Sight) -> Message:
    """Clicks the button that ends the task: the last one."""
    return click(at.of("button")[-1])


def fill(at: Sight, texts: Sequence[str]) -> Message:
    """Brings the fields to these texts, then submits."""
    for field, text in zip(at.of("field"), texts, strict=False):
        if field.value != text:
            return calling("type", {"id": field.id, "text": text})
    return submit(at)


def _boxes(at: Sight) -> Message:
    wanted = re.sub(r"^Select | and click Submit\.$", "", at.asked).split(", ")
    for number, on, text in at.boxes():
        if on != (text in wanted):
            return click(number)
    return submit(at)


def _option(at: Sight) -> Message:
    return _boxes(at)


def _dialog(at: Sight) -> Message:
    wanted = at.quoted()[0]
    return click(at.named("Close" if wanted == "x" else wanted, "button"))


def _list(at: Sight) -> Message:
    wanted = re.sub(r"^Select | from the list and click Submit\.$", "", at.asked)
    found = at.of("select")[0]
    return submit(at) if found.value == wanted else calling("select", {"id": found.id, "option": wanted})


def _focus(at: Sight) -> Message:
    which = re.search(r"(\d+)(?:st|nd|rd|th)", at.asked)
    return click(at.of("field")[int(which[1]) - 1 if which else 0])


def _cased(at: Sight) -> Message:
    text = at.quoted()[0]
    return fill(at, [text.upper() if "upper" in at.asked else text.lower()])


def _date(at: Sight) -> Message:
    month, day, year = re.findall(r"(\d+)/(\d+)/(\d+)", at.asked)[0]
    iso = at.of("field")[0].node.attrs.get("type") == "date"
    return fill(at, [f"{year}-{month}-{day}" if iso else f"{month}/{day}/{year}"])


def _time(at: Sight) -> Message:
    return fill(at, [re.findall(r"\d+:\d+", at.asked)[0].zfill(5)])


def _widget(at: Sight) -> Message:
    wanted = at.quoted()[0]
    kinds: Mapping[str, Callable[[Element], bool]] = {
        "button": lambda e: e.role == "button",
        "checkbox": lambda e: e.role == "checkbox",
        "radio": lambda e: e.role == "radio",
        "textarea": lambda e: e.node.tag == "textarea",
        "text": lambda e: e.role == "field" and e.node.tag == "input",
    }
    return click(next(e for e in at.page.elements if kinds[wanted](e)))


def _tabs(at: Sight) -> Message:
    """Looks behind one tab after the other."""
    wanted = at.quoted()[0].lower()
    for element in at.of("item", "link"):
        if element.label.lower() == wanted and not element.label.startswith("Tab"):
            return click(element)
    tabs = [e for e in at.of("link") if e.label.startswith("Tab #")]
    return click(tabs[(at.turn + 1) % len(tabs)])


def _arithmetic(at: Sight) -> Message:
    for line in at.page.lines:
        if found := re.search(r"(-?\d+) *([x+\-]) *(-?\d+) *=", line):
            a, b = int(found[1]), int(found[3])
            return fill(at, [str({"x": a * b, "+": a + b, "-": a - b}[found[2]])])
    raise StopIteration


def _algebra(at: Sight) -> Message:
    for line in at.page.lines:
        if found := re.search(r"(x|-?\d+) *([+\-]) *(x|-?\d+) *= *(x|-?\d+)", line):
            left, sign, right, total = found.groups()
            hits = [x for x in range(-400, 400) if _holds(left, sign, right, total, x)]
            return fill(at, [str(hits[0])])
    raise StopIteration


def _holds(left: str, sign: str, right: str, total: str, x: int) -> bool:
    a, b, c = (x if part == "x" else int(part) for part in (left, right, total))
    return (a + b if sign == "+" else a - b) == c


def _parity(at: Sight) -> Message:
    """Presses, row by row, the button that fits; the n-th call for the n-th number."""
    rows = [e for e in at.of("item") if re.fullmatch(r"-?\d+", e.label)]
    if at.turn >= len(rows):
        return submit(at)
    row = rows[at.turn]
    wanted = "Odd" if int(row.label) % 2 else "Even"
    around = [e for e in at.of("button") if e.label == wanted]
    return click(min(around, key=lambda e: abs(e.id - row.id)))


def _copy(at: Sight) -> Message:
    fields = at.of("field")[:2]
    source = next(e for e in fields if e.node.tag == "textarea")
    target = next(e for e in fields if e.node.tag == "input")
    text = source.node.attrs.get("value", source.value)
    return submit(at) if target.value == text else calling("type", {"id": target.id, "text": text})


def _word(at: Sight) -> Message:
    number = int(re.findall(r"(\d+)(?:st|nd|rd|th)", at.asked)[0])
    texts = [e.label for e in at.of("item") if not e.label.startswith("Find the") and not re.fullmatch(r"\d+..", e.label)]
    return fill(at, [re.sub(r"[^\w]", "", max(texts, key=len).split()[number - 1])])


def _rows(at: Sight) -> dict[str, str]:
    """A table of two columns."""
    found: dict[str, str] = {}
    for line in at.page.lines:
        cells = [re.sub(r"\[\d+\] *", "", cell).strip() for cell in line.split(" | ")]
        if len(cells) == 2:
            found[cells[0]] = cells[1]
    return found


def _table(at: Sight) -> Message:
    wanted = re.findall(r"value of (.+) into", at.asked)[0]
    return fill(at, [_rows(at)[wanted]])


def _table_twice(at: Sight) -> Message:
    labels = (re.search(r"(?:\[\d+\])? *([\w ]+): *\[\d+ field", line) for line in at.page.lines)
    return fill(at, [_rows(at)[found[1].strip()] for found in labels if found])


def _letters(at: Sight) -> Message:
    letters = [e.label for e in at.of("item") if len(e.label) == 1]
    return fill(at, ["".join(letters)])


def _section(at: Sight) -> Message:
    return submit(at) if at.turn else click(next(e for e in at.page.elements if e.label.startswith("Section #")))


def _press(at: Sight) -> Message:
    return click(at.named(at.quoted()[0], "button"))


SOLVERS: dict[str, Player] = {
    "click-test": submit,
    "click-test-2": lambda at: click(at.named("ONE", "button")),
    "click-test-transfer": lambda at: click(at.named(re.findall(r"button (\w+)", at.asked)[0], "button")),
    "click-button": _press,
    "click-button-sequence": lambda at: click(at.named(("ONE", "TWO")[min(at.turn, 1)], "button")),
    "click-checkboxes": _boxes,
    "click-checkboxes-transfer": _boxes,
    "click-checkboxes-large": _boxes,
    "click-option": _option,
    "click-dialog": _dialog,
    "click-dialog-2": _dialog,
    "click-link": lambda at: click(at.named(at.quoted()[0], "item", "link")),
    "click-tab": lambda at: click(at.named(re.findall(r"Tab #\d+", at.asked)[0], "link")),
    "click-tab-2": _tabs,
    "click-widget": _widget,
    "click-collapsible-nodelay": _section,
    "choose-list": _list,
    "copy-paste": _copy,
    "enter-text": lambda at: fill(at, at.quoted()),
    "enter-text-2": _cased,
    "enter-text-dynamic": lambda at: fill(at, at.quoted()),
    "enter-password": lambda at: fill(at, at.quoted() * 2),
    "enter-date": _date,
    "enter-time": _time,
    "find-word": _word,
    "focus-text": _focus,
    "focus-text-2": _focus,
    "login-user": lambda at: fill(at, at.quoted()),
    "odd-or-even": _parity,
    "read-table": _table,
    "read-table-2": _table_twice,
    "simple-arithmetic": _arithmetic,
    "simple-algebra": _algebra,
    "text-transform": _letters,
    "unicode-test": _press,
}
"""Players by the name of the page."""


def advise(page: str, at: Sight) -> Message:
    """What the page's player does now; nothing that helps where there is none, or it is at a loss."""
    try:
        return SOLVERS[page](at)
    except (KeyError, StopIteration, IndexError, ValueError):
        return calling("scroll", {"direction": "down"})
