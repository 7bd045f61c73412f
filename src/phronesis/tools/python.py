"""A Python that keeps its variables, in a box."""

from __future__ import annotations

from phronesis.errors import ToolError
from phronesis.sandbox import Box, Interpreter, Limits
from phronesis.tool import Tool, as_tool, tool


class PythonTool:
    """The tool ``python`` of one episode."""

    def __init__(self, box: Box, limits: Limits | None = None):
        """Starts when first called.

        Args:
            box: of this episode alone.
            limits: of each call; None means those of the box.
        """
        self.interpreter = Interpreter(box, limits)

    def tools(self) -> list[Tool]:
        """As tools of an environment."""
        return [as_tool(self.python)]

    @tool(effect="mutating")
    async def python(self, code: str) -> str:
        """Runs Python code and returns what it prints and the value of its last line. Variables and files stay until the end.

        Args:
            code: statements; there is no network, and only the standard library can be imported.
        """
        said = await self.interpreter.run(code)
        parts = [said.output.rstrip("\n")] if said.output else []
        if said.value is not None:
            parts.append(said.value)
        if said.error is not None:
            raise ToolError("\n".join([*parts, said.error]), "code_raised")
        return "\n".join(parts) or "(no output)"

    async def close(self) -> None:
        """Ends the interpreter."""
        await self.interpreter.close()
