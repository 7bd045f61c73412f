"""Browsing a site that lives in this process: plain, or in a real Chromium that can reach nothing else."""

from phronesis.tools.browser.outline import Element, Node, Outline, outline, words
from phronesis.tools.browser.plain import PlainView
from phronesis.tools.browser.site import Request, Response, Site
from phronesis.tools.browser.tools import BrowserTools
from phronesis.tools.browser.view import View

__all__ = [
    "BrowserTools", "Element", "Node", "Outline", "PlainView", "Request", "Response", "Site", "View", "outline", "words"
]  # fmt: skip
