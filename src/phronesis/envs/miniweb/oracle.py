"""What to do next in the town, by one who knows what is wanted and sees the same page as the agent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from phronesis.envs.miniweb.town import HOST, Town, expected
from phronesis.envs.trl_style import calling
from phronesis.records import Message, say
from phronesis.tools.browser import Element, View

DONE = say("assistant", "It is done.")


def advise(town: Town, view: View, goals: list[dict[str, Any]]) -> Message:
    """The next call; a message without one when all is done, or nothing can be mended."""
    for goal in goals:
        if not town.done(goal):
            return _STEPS[goal["kind"]](town, view, goal)
    return DONE


def at(view: View, url: str) -> bool:
    """Whether this page is open and can be sent from."""
    return view.url == f"http://{HOST}{url}" and view.got


def find(view: View, role: str, label: str) -> Element | None:
    """The element with a text."""
    return next((e for e in view.outline.elements if e.role == role and e.label == label), None)


def fill(view: View, url: str, wanted: Mapping[str, str], button: str) -> Message:
    """The next step of a form: open it, bring every field to what it shall hold, send it."""
    last = find(view, "button", button)
    if not at(view, url) or last is None:
        return calling("goto", {"url": url})
    for element in view.outline.elements:
        want = wanted.get(element.node.attrs.get("name", ""))
        if want is None or element.value == want:
            continue
        match element.role:
            case "field":
                return calling("type", {"id": element.id, "text": want})
            case "select":
                return calling("select", {"id": element.id, "option": want})
            case _:
                return calling("click", {"id": element.id})
    return calling("click", {"id": last.id})


def _order(town: Town, view: View, goal: Mapping[str, Any]) -> Message:
    cart, wanted = town.state["cart"], expected(goal)
    sku, count = goal["sku"], goal["count"]
    for other, held in cart.items():
        if other != sku or held > count:
            name = next(g["name"] for g in town.world["goods"] if g["sku"] == other)
            remove = find(view, "button", f"Remove {name}")
            if remove is None or not view.url.endswith("/shop/cart"):
                return calling("goto", {"url": "/shop/cart"})
            return calling("click", {"id": remove.id})
    if cart.get(sku, 0) < count:
        return fill(view, f"/shop/item?sku={sku}", {"quantity": str(count - cart.get(sku, 0))}, "Add to cart")
    told = {"name": wanted["name"], "street": wanted["street"], "delivery": wanted["delivery"]}
    return fill(view, "/shop/checkout", {**told, "gift": "on" if wanted["gift"] else "off"}, "Order now")


def _reply(town: Town, view: View, goal: Mapping[str, Any]) -> Message:
    return fill(view, f"/mail/reply?id={goal['mail']}", {"body": goal["body"]}, "Send")


def _delete(town: Town, view: View, goal: Mapping[str, Any]) -> Message:
    left = next(id for id in goal["mails"] if id not in town.state["deleted"])
    return fill(view, f"/mail/read?id={left}", {}, "Delete for ever")


def _reserve(town: Town, view: View, goal: Mapping[str, Any]) -> Message:
    wanted = {"people": str(goal["people"]), "name": goal["name"]}
    return fill(view, f"/booking/table?id={goal['slot']}", wanted, "Reserve")


def _account(town: Town, view: View, goal: Mapping[str, Any]) -> Message:
    wanted = goal["account"]
    told = {"email": wanted["email"], "phone": wanted["phone"], "language": wanted["language"]}
    return fill(view, "/account", {**told, "newsletter": "on" if wanted["newsletter"] else "off"}, "Save")


_STEPS = {"order": _order, "reply": _reply, "delete": _delete, "reserve": _reserve, "account": _account}
