"""The tools of a browser: each answers with the page as text, or with a picture of it."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from phronesis.tool import Picture, Tool, as_tool, tool
from phronesis.tools.browser.view import View

Number = Annotated[int, Meta(ge=1, le=9999)]
"""Number of an element."""


class BrowserTools:
    """``goto``, ``click``, ``type``, ``select``, ``scroll``, ``back`` and ``screenshot`` in one window.

    What a click does to the world, only its site knows (`Response.effect`); so none is declared here.
    """

    def __init__(self, view: View) -> None:
        """For one episode.

        Args:
            view: its window.
        """
        self.view = view

    def tools(self, *, screen: bool = False, places: bool = True) -> list[Tool]:
        """As tools of an environment.

        Args:
            screen: also offer ``screenshot``; the policy must be able to see.
            places: also offer ``goto`` and ``back``.
        """
        found = [self.click, self.type, self.select, self.scroll]
        found = [self.goto, *found, self.back] if places else found
        return [as_tool(f) for f in ([*found, self.screenshot] if screen else found)]

    @tool
    async def goto(self, url: str) -> str:
        """Opens a page of this site.

        Args:
            url: its address, e.g. "/".
        """
        await self.view.goto(url)
        return self.view.text()

    @tool
    async def click(self, id: Number) -> str:
        """Clicks a link, button, box or item.

        Args:
            id: the number before it.
        """
        await self.view.click(id)
        return self.view.text()

    @tool(effect="mutating")
    async def type(self, id: Number, text: str) -> str:
        """Types into a field, in place of what it holds.

        Args:
            id: the number before it.
            text: what the field shall hold.
        """
        await self.view.type(id, text)
        return self.view.text()

    @tool(effect="mutating")
    async def select(self, id: Number, option: str) -> str:
        """Chooses an option of a select.

        Args:
            id: the number before it.
            option: its text.
        """
        await self.view.select(id, option)
        return self.view.text()

    @tool
    async def scroll(self, direction: Literal["up", "down"]) -> str:
        """Shows other lines of a long page.

        Args:
            direction: where to.
        """
        await self.view.scroll(direction == "down")
        return self.view.text()

    @tool
    async def back(self) -> str:
        """Opens the page before this one."""
        await self.view.back()
        return self.view.text()

    @tool(effect="pure")
    async def screenshot(self) -> Picture:
        """Takes a picture of the page."""
        return Picture(await self.view.screenshot())
