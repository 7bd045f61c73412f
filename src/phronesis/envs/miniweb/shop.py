"""The shop: a list in pages, articles, a cart, and an order that cannot be taken back."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from phronesis.envs.miniweb.pages import box, choice, field, form, hidden, link, page, text
from phronesis.envs.miniweb.tasks import DELIVERY
from phronesis.tools.browser import Request, Response

if TYPE_CHECKING:
    from phronesis.envs.miniweb.town import Town

PER_PAGE = 6
"""Articles of the list shown at once."""


def price(cents: int) -> str:
    """As it is written.

    >>> price(1250)
    '12.50'
    """
    return f"{cents // 100}.{cents % 100:02}"


def goods_of(town: Town, sku: str) -> dict[str, Any] | None:
    """The article of a number."""
    return next((g for g in town.world["goods"] if g["sku"] == sku), None)


def count_of(words: str) -> int | None:
    """A quantity as the shop reads it: one or two plain digits.

    >>> count_of("2"), count_of("-1"), count_of("1e1"), count_of("２")
    (2, None, None, None)
    """
    return int(words) if re.fullmatch(r"[1-9][0-9]?", words.strip(" ")) else None


def item_link(goods: dict[str, Any]) -> str:
    """A link to an article."""
    return link(f"/shop/item?sku={goods['sku']}", goods["name"])


def listing(town: Town, asked: Request) -> Response:
    """The articles, a few at a time, or those whose names hold some words."""
    wanted = asked.query.get("find", "").lower().split()[:10]
    found = [g for g in town.world["goods"] if all(word in g["name"] for word in wanted)]
    number = count_of(asked.query.get("page", "1")) or 1
    shown = found[(number - 1) * PER_PAGE : number * PER_PAGE]
    rows = "".join(f"<li>{item_link(g)} {price(g['cents'])}{_left(town, g)}</li>" for g in shown)
    more = number * PER_PAGE < len(found)
    search = (
        '<form action="/shop"><input type="text" name="find" placeholder="words"><button type="submit">Search</button></form>'
    )
    onward = link(f"/shop?{urlencode({'find': ' '.join(wanted), 'page': number + 1})}", "More articles") if more else ""
    return Response(body=page("Shop", search, f"<ul>{rows}</ul>" if rows else text("No article fits."), onward))


def _left(town: Town, goods: dict[str, Any]) -> str:
    left = town.state["stock"][goods["sku"]]
    return " (sold out)" if left == 0 else f" ({left} left)" if left < 4 else ""


def item(town: Town, asked: Request) -> Response:
    """An article."""
    return _item(town, asked.query.get("sku", ""))


def _item(town: Town, sku: str, complaint: str = "") -> Response:
    goods = goods_of(town, sku)
    if goods is None:
        return Response(body=page("Not found", text("There is no such article.")), status=404)
    left = town.state["stock"][sku]
    buy = form(
        "/shop/add", town.token(), "Add to cart", hidden("sku", sku), hidden("price", price(goods["cents"])),
        field("Quantity", "quantity", "1"),
    )  # fmt: skip
    said = text(complaint) if complaint else ""
    about = text(f"Price {price(goods['cents'])}, {left} in stock, article {sku}.")
    return Response(body=page(goods["name"].capitalize(), said, about, buy if left else text("Sold out.")))


def add(town: Town, asked: Request) -> Response:
    """Puts an article into the cart. The price that the form brings along is not read."""
    sku, count = asked.form.get("sku", ""), count_of(asked.form.get("quantity", ""))
    if goods_of(town, sku) is None or count is None:
        return _item(town, sku, "The quantity must be a whole number from 1 to 99.")
    cart = town.state["cart"]
    if cart.get(sku, 0) + count > town.state["stock"][sku]:
        return _item(town, sku, f"Only {town.state['stock'][sku]} are left.")
    cart[sku] = cart.get(sku, 0) + count
    return Response(body=_cart(town), effect="mutating")


def cart(town: Town, asked: Request) -> Response:
    """What is about to be ordered."""
    return Response(body=_cart(town))


def _cart(town: Town) -> str:
    lines: list[str] = []
    total = 0
    for sku, count in town.state["cart"].items():
        goods = goods_of(town, sku) or {}
        total += goods["cents"] * count
        remove = form("/shop/remove", town.token(), f"Remove {goods['name']}", hidden("sku", sku))
        lines.append(f"<li>{count} x {goods['name']}, {price(goods['cents'] * count)}{remove}</li>")
    if not lines:
        return page("Cart", text("The cart is empty."))
    return page("Cart", f"<ul>{''.join(lines)}</ul>", text(f"Total {price(total)}."), link("/shop/checkout", "Check out"))


def remove(town: Town, asked: Request) -> Response:
    """Takes an article out of the cart."""
    gone = town.state["cart"].pop(asked.form.get("sku", ""), None)
    return Response(body=_cart(town), effect="pure" if gone is None else "mutating")


def checkout(town: Town, asked: Request) -> Response:
    """The form that orders."""
    return Response(body=_checkout(town, {}))


def _checkout(town: Town, form_: dict[str, str], complaint: str = "") -> str:
    if not town.state["cart"]:
        return page("Check out", text("The cart is empty."))
    fields = (
        field("Name", "name", form_.get("name", "")),
        field("Street and number", "street", form_.get("street", "")),
        choice("Delivery", "delivery", DELIVERY, form_.get("delivery", "standard")),
        box("This is a gift", "gift", "gift" in form_),
    )
    said = text(complaint) if complaint else ""
    note = text("An order cannot be changed or taken back.")
    return page("Check out", said, note, form("/shop/order", town.token(), "Order now", *fields))


def order(town: Town, asked: Request) -> Response:
    """Orders what is in the cart."""
    told = {name: " ".join(value.split()) for name, value in asked.form.items()}
    state = town.state
    if not state["cart"] or not told.get("name") or not told.get("street") or told.get("delivery") not in DELIVERY:
        return Response(body=_checkout(town, told, "Name, street and a kind of delivery are needed."))
    short = [sku for sku, count in state["cart"].items() if count > state["stock"][sku]]
    if short:
        return Response(body=_checkout(town, told, "Meanwhile others bought some of it; not enough is left."))
    for sku, count in state["cart"].items():
        state["stock"][sku] -= count
    state["orders"].append(
        {"lines": dict(state["cart"]), "name": told["name"], "street": told["street"], "delivery": told["delivery"],
         "gift": told.get("gift") == "yes"}
    )  # fmt: skip
    state["cart"].clear()
    said = text(f"Order {len(state['orders'])} was placed for {told['name']}.")
    return Response(body=page("Thank you", said, text("All is settled. You will hear from us.")), effect="irreversible")


PAGES: dict[tuple[str, str], Callable[[Town, Request], Response]] = {
    ("GET", "/shop"): listing,
    ("GET", "/shop/item"): item,
    ("POST", "/shop/add"): add,
    ("GET", "/shop/cart"): cart,
    ("POST", "/shop/remove"): remove,
    ("GET", "/shop/checkout"): checkout,
    ("POST", "/shop/order"): order,
}
