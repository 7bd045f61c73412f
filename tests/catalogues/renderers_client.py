"""Runs in the environment of verifiers v1: asks a token route with the client that verifiers trains with."""

import asyncio
import json
import sys

from openai import AsyncOpenAI
from renderers.base import ParsedResponse
from renderers.client import OverlongPromptError, generate


class Ids:
    """Stands for a renderer: the prompt is given as ids, and nothing is parsed out of the answer."""

    supports_tools = True

    def get_stop_token_ids(self):
        return [2]

    def parse_response(self, ids, **more):
        return ParsedResponse(content=" ".join(map(str, ids)), reasoning_content=None, tool_calls=[])


async def main(address: str) -> None:
    client, found = AsyncOpenAI(base_url=f"{address}/v1", api_key="any", max_retries=0), []
    for n in range(20):
        answer = await generate(
            client=client,
            renderer=Ids(),
            messages=[],
            model="m",
            prompt_ids=[5, 6, 7 + n],
            sampling_params={"max_tokens": 6, "seed": n},
        )
        keys = ("prompt_ids", "completion_ids", "completion_logprobs", "finish_reason", "content")
        found.append({key: answer[key] for key in keys})
    try:
        await generate(client=client, renderer=Ids(), messages=[], model="m", prompt_ids=[5] * 300)
    except OverlongPromptError as error:
        found.append({"overlong": error.prompt_len})
    print(json.dumps(found))


asyncio.run(main(sys.argv[1]))
