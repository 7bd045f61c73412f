"""Pages of the town's sites: plain HTML without scripts or styles."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

PLACES = (
    ("/", "Home"),
    ("/shop", "Shop"),
    ("/shop/cart", "Cart"),
    ("/mail", "Mail"),
    ("/booking", "Tables"),
    ("/account", "Account"),
)


def page(title: str, *body: str) -> str:
    """A whole page.

    >>> page("Hello", "<p>there</p>").count("<p>")
    1
    """
    around = " ".join(link(url, name) for url, name in PLACES)
    return (
        f"<!doctype html><html><head><meta charset='utf-8'><title>{escape(title)}</title></head>"
        f"<body><nav>{around}</nav><main><h1>{escape(title)}</h1>{''.join(body)}</main></body></html>"
    )


def link(url: str, name: str) -> str:
    """A link."""
    return f'<a href="{escape(url)}">{escape(name)}</a>'


def text(words: str) -> str:
    """A paragraph."""
    return f"<p>{escape(words)}</p>"


def hidden(name: str, value: str) -> str:
    """A field nobody sees."""
    return f'<input type="hidden" name="{name}" value="{escape(value)}">'


def field(label: str, name: str, value: str = "") -> str:
    """A line for text."""
    return f'<p><label>{escape(label)}: <input type="text" name="{name}" value="{escape(value)}"></label></p>'


def area(label: str, name: str, value: str = "") -> str:
    """Room for a longer text."""
    return f'<p><label>{escape(label)}: <textarea name="{name}" rows="4" cols="60">{escape(value)}</textarea></label></p>'


def box(label: str, name: str, on: bool) -> str:
    """A box to tick."""
    return f'<p><label><input type="checkbox" name="{name}" value="yes"{" checked" if on else ""}> {escape(label)}</label></p>'


def choice(label: str, name: str, options: Sequence[str], now: str) -> str:
    """One of several."""
    made = "".join(f'<option value="{escape(o)}"{" selected" if o == now else ""}>{escape(o)}</option>' for o in options)
    return f'<p><label>{escape(label)}: <select name="{name}">{made}</select></label></p>'


def form(action: str, token: str, button: str, *fields: str) -> str:
    """A form that is sent by POST, once."""
    inside = f"{hidden('token', token)}{''.join(fields)}"
    return f'<form method="post" action="{action}">{inside}<button type="submit">{escape(button)}</button></form>'
