"""Pins: schemas from hints and docstrings, strict argument checks with their kinds, results as text."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import pickle
from typing import Annotated, Literal, TypedDict

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phronesis.errors import ConfigError, EnvFault, ToolError
from phronesis.tool import as_text, as_tool, call, tool, tool_spec


class Colour(enum.Enum):
    red = "red"
    blue = "blue"


class Address(TypedDict):
    street: str
    number: int


@dataclasses.dataclass
class Person:
    name: str
    home: Address | None = None


class Item(msgspec.Struct):
    sku: str
    count: int = 1


@tool(effect="mutating")
def order(
    name: str,
    amount: int,
    price: float = 1.5,
    urgent: bool = False,
    size: Literal["s", "m"] = "m",
    colour: Colour | None = None,
    tags: list[str] | None = None,
    weights: dict[str, float] | None = None,
    person: Person | None = None,
    item: Item | None = None,
    digit: Annotated[int, msgspec.Meta(ge=0, le=9)] = 0,
) -> dict[str, object]:
    """Orders something
    from the shop.

    Really.

    Args:
        name: what to order,
            in words.
        amount (int): how many.
        size: s or m.

    Returns:
        what was ordered.

    Raises:
        name: not an argument note.
    """
    return {"name": name, "amount": amount, "colour": colour, "person": person}


def run(fn, **arguments):
    return asyncio.run(call(fn, arguments))


def test_schema_of_every_kind_of_argument():
    spec = tool_spec(order)
    properties = spec.parameters["properties"]
    assert spec.name == "order"
    assert spec.description == "Orders something from the shop.\nReally."
    assert spec.parameters["required"] == ["name", "amount"]
    assert properties["name"] == {"type": "string", "description": "what to order, in words."}
    assert properties["amount"] == {"type": "integer", "description": "how many."}
    assert properties["price"] == {"type": "number", "default": 1.5}
    assert properties["urgent"] == {"type": "boolean", "default": False}
    assert properties["size"] == {"type": "string", "enum": ["m", "s"], "description": "s or m.", "default": "m"}
    assert properties["tags"]["anyOf"] == [{"type": "array", "items": {"type": "string"}}, {"type": "null"}]
    assert properties["digit"] == {"type": "integer", "minimum": 0, "maximum": 9, "default": 0}
    assert spec.parameters["$defs"]["Colour"]["enum"] == ["blue", "red"]
    assert spec.parameters["$defs"]["Address"]["required"] == ["number", "street"]
    assert properties["person"]["anyOf"][0] == {"$ref": "#/$defs/Person"}
    assert as_tool(order).effect == "mutating"


def test_decorator_returns_the_function_itself():
    assert order("x", 2)["amount"] == 2


def test_arguments_are_converted_to_their_types():
    seen = []

    @tool
    def look(colour: Colour, person: Person, item: Item, share: float) -> str:
        """Looks."""
        seen.append((colour, person, item, share))
        return "ok"

    text = run(look, colour="red", person={"name": "Ada"}, item={"sku": "a"}, share=1)
    assert text == "ok"
    assert seen == [(Colour.red, Person("Ada"), Item("a", 1), 1.0)]


@pytest.mark.parametrize(
    ("arguments", "kind", "text"),
    [
        ({"name": "x"}, "missing_argument", "order needs the argument 'amount'"),
        ({"name": "x", "amount": "3"}, "bad_argument", "argument 'amount': Expected `int`, got `str`; got '3'"),
        ({"name": "x", "amount": True}, "bad_argument", "argument 'amount': Expected `int`, got `bool`; got True"),
        ({"name": "x", "amount": 1.5}, "bad_argument", "argument 'amount': Expected `int`, got `float`; got 1.5"),
        ({"name": None, "amount": 1}, "bad_argument", "argument 'name': Expected `str`, got `null`; got None"),
        ({"name": "x", "amount": 1, "size": "xl"}, "bad_argument", "argument 'size': must be one of 'm', 's'; got 'xl'"),
        ({"name": "x", "amount": 1, "digit": 12}, "bad_argument", "argument 'digit': Expected `int` <= 9; got 12"),
        ({"name": "x", "amount": 2**70}, "bad_argument", "the arguments hold a number of more than 64 bits"),
        ({"name": "x", "amount": 1, "price": float("nan")}, "bad_argument", "the arguments hold a number that is not finite"),
        (
            {"name": "\ud800", "amount": 1},
            "bad_argument",
            "the arguments hold a lone surrogate, which is not a character",
        ),
        (
            {"name": "x", "amount": 1, "person": {"name": "A", "home": {"street": "b"}}},
            "bad_argument",
            "argument 'person': Object missing required field `number` - at `$.home`; "
            "got {'name': 'A', 'home': {'street': 'b'}}",
        ),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named(arguments, kind, text):
    with pytest.raises(ToolError) as error:
        asyncio.run(call(order, arguments))
    assert (error.value.kind, str(error.value)) == (kind, text)


def test_unknown_argument_lists_the_known_ones_and_long_names_are_cut():
    @tool
    def one(a: int) -> int:
        """One."""
        return a

    with pytest.raises(ToolError, match=r"one has no argument 'b'; it takes: a") as error:
        run(one, b=1)
    assert error.value.kind == "unknown_argument"
    with pytest.raises(ToolError) as error:
        asyncio.run(call(one, {"x" * 10_000: 1}))
    assert len(str(error.value)) < 200


def test_floods_in_arguments_are_refused():
    deep: object = 1
    for _ in range(100):
        deep = [deep]
    for arguments in ({"name": "x" * 200_000, "amount": 1}, {"name": "x", "amount": 1, "tags": deep}):
        with pytest.raises(ToolError, match="too large") as error:
            asyncio.run(call(order, arguments))
        assert error.value.kind == "bad_argument"


def test_async_tools_and_methods():
    class Box:
        def __init__(self):
            self.held = 0

        @tool
        async def put(self, amount: int) -> int:
            """Puts."""
            await asyncio.sleep(0)
            self.held += amount
            return self.held

    box = Box()
    assert run(box.put, amount=2) == "2"
    assert run(box.put, amount=3) == "5"
    assert list(tool_spec(box.put).parameters["properties"]) == ["amount"]


def test_tool_error_comes_through_and_other_exceptions_too():
    @tool
    def refuse() -> str:
        """Refuses."""
        raise ToolError("no page 7")

    @tool
    def broken() -> str:
        """Breaks."""
        raise KeyError("bug")

    with pytest.raises(ToolError) as error:
        run(refuse)
    assert (error.value.kind, str(error.value)) == ("tool_raised", "no page 7")
    with pytest.raises(KeyError):
        run(broken)
    with pytest.raises(ToolError) as error:
        asyncio.run(as_tool(broken, tell=(KeyError,)).call({}))
    assert error.value.kind == "tool_raised"


def test_tool_error_pickles():
    error = pickle.loads(pickle.dumps(ToolError("text", "bad_argument")))
    assert (str(error), error.kind) == ("text", "bad_argument")


@pytest.mark.parametrize(
    ("result", "text"),
    [
        ("as it is", "as it is"),
        (None, "null"),
        (3, "3"),
        ({"a": [1, 2.5, None, True]}, '{"a":[1,2.5,null,true]}'),
        (Item("x"), '{"sku":"x","count":1}'),
        ("\ud800!", "?!"),
    ],
)
def test_results_as_text(result, text):
    assert as_text(result) == text


def test_results_are_capped_with_a_note():
    @tool(max_chars=10)
    def flood() -> str:
        """Floods."""
        return "x" * 1000

    assert run(flood) == "x" * 10 + "\n[990 characters cut]"


def test_a_result_that_is_no_text_is_the_environments_fault():
    with pytest.raises(EnvFault, match="'object'"):
        as_text(object())


def test_bad_tools_are_refused_when_they_are_made():
    def untyped(a):
        """Doc."""

    def undocumented(a: int):
        return a

    def variadic(*a: int):
        """Doc."""

    def keywords(**a: int):
        """Doc."""

    def strange(a: asyncio.Queue):
        """Doc."""

    for bad, message in [
        (untyped, "no type hint"),
        (undocumented, "no docstring"),
        (variadic, "name every argument"),
        (keywords, "name every argument"),
        (strange, "JSON cannot carry"),
    ]:
        with pytest.raises(ConfigError, match=message):
            tool_spec(bad)


def test_name_and_description_can_be_given():
    @tool(name="go", description="Goes.")
    def _hidden(to: str) -> str:
        return to

    assert (tool_spec(_hidden).name, tool_spec(_hidden).description) == ("go", "Goes.")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["name", "amount", "size", "item", "x"]), json_values, max_size=5))
def test_any_arguments_give_a_result_or_a_tool_error(arguments):
    try:
        asyncio.run(call(order, arguments))
    except ToolError as error:
        assert error.kind in {"missing_argument", "unknown_argument", "bad_argument"}
