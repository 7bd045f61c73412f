"""The `openai` SDK, unmodified, in a hand-written tool loop over chat completions and over Responses, plain and streamed."""

import httpx
import openai
import pytest
from shop import LOOK_UP, PRICES, gateway, prove, run_tool


def opened(address, **body):
    answer = httpx.post(f"{address}/episodes", json=body)
    assert answer.status_code == 201, answer.text
    return answer.json()


def ask(client, messages, stream):
    """One assistant message as the SDK gives it back, whole or put together from a stream."""
    if not stream:
        return client.chat.completions.create(model="gpt-4o", messages=messages, tools=[LOOK_UP]).choices[0].message
    with client.chat.completions.stream(model="gpt-4o", messages=messages, tools=[LOOK_UP]) as events:
        for _ in events:
            pass
        return events.get_final_completion().choices[0].message


def loop(client, question, stream=False):
    """An agent as people write them: until there are no calls, do what is called."""
    messages = [{"role": "system", "content": "You sell fruit."}, {"role": "user", "content": question}]
    while True:
        message = ask(client, messages, stream)
        messages.append(message)
        if not message.tool_calls:
            return message.content
        for call in message.tool_calls:
            result = run_tool(call.function.name, call.function.arguments)
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_loop_is_one_token_exact_line(stream):
    with gateway() as (address, book):
        episode = opened(address, task="fig")
        with openai.OpenAI(base_url=episode["base_url"], api_key="unused") as client:
            assert loop(client, "price of fig", stream) == "It costs 5."
        httpx.post(f"{address}/episodes/{episode['id']}/reward", json={"score": 1.0})
        end = httpx.post(f"{address}/episodes/{episode['id']}/finish").json()
    assert (end["stop"], end["reward"], end["roots"], end["requests"]) == ("completed", 1.0, 1, {"opened": 1, "extended": 1})
    (record,) = book.played
    prove(record)
    assert [t.parent for t in record.turns] == [None, 0]
    assert record.turns[0].action.thought == "look it up"
    assert record.turns[0].action.tool_calls[0].arguments == {"item": "fig"}
    assert record.turns[0].reply.messages[0].text == PRICES["fig"]
    assert record.reward.value == 1.0


def responses_loop(client, question, stream):
    """The same agent on the Responses API; the items of an answer go back as they came."""
    tool = {"type": "function", **LOOK_UP["function"], "strict": False}
    items = [{"role": "user", "content": question}]
    while True:
        asked = {"model": "gpt-5", "instructions": "You sell fruit.", "input": items, "tools": [tool]}
        if stream:
            with client.responses.stream(**asked) as events:
                for _ in events:
                    pass
                answer = events.get_final_response()
        else:
            answer = client.responses.create(**asked)
        items += [item.model_dump(exclude_none=True) for item in answer.output]
        called = [item for item in answer.output if item.type == "function_call"]
        if not called:
            return answer.output_text
        items += [
            {"type": "function_call_output", "call_id": c.call_id, "output": run_tool(c.name, c.arguments)} for c in called
        ]


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_loop_over_the_responses_api_is_one_token_exact_line(stream):
    with gateway() as (address, book):
        episode = opened(address, task="kiwi")
        with openai.OpenAI(base_url=episode["base_url"], api_key="unused") as client:
            assert responses_loop(client, "price of kiwi", stream) == "It costs 7."
            with pytest.raises(openai.BadRequestError, match="send the whole conversation"):
                client.responses.create(model="m", input="and?", previous_response_id="x")
            with pytest.raises(openai.BadRequestError, match=r"text.format 'json_object' cannot be enforced"):
                client.responses.create(model="m", input="and?", text={"format": {"type": "json_object"}})
        end = httpx.post(f"{address}/episodes/{episode['id']}/finish", json={"reward": 1.0}).json()
    assert (end["roots"], end["requests"]) == (1, {"opened": 1, "extended": 1})
    record = prove(book.played[0])
    assert [t.parent for t in record.turns] == [None, 0]
    assert record.turns[0].action.thought == "look it up"
