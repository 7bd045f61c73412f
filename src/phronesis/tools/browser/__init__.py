"""Browsing a site that lives in this process: plain, or in a real Chromium that can reach nothing else."""

from phronesis.tools.browser.outline import Element, Node, Outline, outline, words
from phronesis.tools.browser.plain import PlainView
from phronesis.tools.browser.site import Request, Response, Site
from phronesis.tools.browser.tools import BrowserTools
from phronesis.tools.browser.view import View
from phronesis.tools.browser.window import ChromiumView
from phronesis.tools.browser.worker import check, shared

__all__ = [
    "BrowserTools", "ChromiumView", "Element", "Node", "Outline", "PlainView", "Request", "Response", "Site", "View", "check",
    "outline", "shared", "words",
]  # fmt: skip
