"""First prompts: long ones are encoded in a thread, once for all who open alike, and a format that hangs is named."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import replace

import pytest
from rollout_worlds import Walk, played, policy_of, stage_of

from phronesis.errors import TemplateError
from phronesis.records import Reply, Stop, say
from phronesis.rollout.opening import LONG, opened


class Slow:
    """A chat format that counts what it encodes."""

    def __init__(self):
        self.texts = []

    def open(self, messages, tools=()):
        self.texts.append(messages[0].text)
        time.sleep(0.02)
        if messages[0].text.startswith("bad"):
            raise ValueError("no such role")
        return (len(messages[0].text),)


def test_a_long_prompt_is_encoded_once_for_all_and_outlives_one_that_gives_up():
    async def main():
        chat = Slow()
        long, bad = say("user", "x" * LONG), say("user", "bad" + "x" * LONG)
        first = asyncio.create_task(opened(chat, [long], ()))
        others = [asyncio.create_task(opened(chat, [long], ())) for _ in range(3)]
        failing = [asyncio.create_task(opened(chat, [bad], ())) for _ in range(2)]
        await asyncio.sleep(0)
        first.cancel()
        found = await asyncio.gather(first, *others, *failing, return_exceptions=True)
        short = await opened(chat, [say("user", "hi")], ())
        return chat.texts, found, short

    texts, found, short = asyncio.run(main())
    assert [t[:3] for t in texts] == ["xxx", "bad", "hi"]
    assert isinstance(found[0], asyncio.CancelledError) and found[1:4] == [(LONG,)] * 3 and short == (2,)
    assert [str(e) for e in found[4:]] == ["no such role"] * 2


def test_only_the_own_prompt_counts_not_the_queue_before_it():
    class Even:
        def open(self, messages, tools=()):
            time.sleep(0.25)
            return (len(messages[0].text),)

    async def main():
        chat = Even()
        return await asyncio.gather(*(opened(chat, [say("user", "x" * (LONG + n))], (), 1.2) for n in range(7)))

    assert asyncio.run(main()) == [(LONG + n,) for n in range(7)], "1.75 s in all, none of them above 1.2 s"


def test_a_format_that_hangs_is_a_fault_that_says_so_and_is_named_before():
    go_on = threading.Event()
    stage = stage_of(lambda: Walk(opening=Reply(messages=(say("user", "x" * LONG),))), policy_of(), env_seconds=0.2)
    said = []

    class Hangs:
        def __getattr__(self, name):
            return getattr(stage.chat, name)

        def open(self, messages, tools=()):
            said.append(dict(stage.waiting))
            go_on.wait(60)
            return ()

    try:
        episode = played(replace(stage, chat=Hangs()))
    finally:
        go_on.set()
    assert (episode.stop, episode.failure.where) == (Stop.env_fault, "chat.open")
    assert "not encoded within 0.2 s" in episode.failure.message
    assert list(said[0].values()) == ["chat.open"] and not stage.waiting


def test_what_no_future_can_carry_arrives_as_an_error():
    class Ends:
        def open(self, messages, tools=()):
            raise StopIteration

    with pytest.raises(TemplateError, match="raised StopIteration"):
        asyncio.run(asyncio.wait_for(opened(Ends(), [say("user", "x" * LONG)], ()), 30))


def test_a_forked_process_encodes_too():
    program = """
        import asyncio, os, warnings
        from phronesis.records import say
        from phronesis.rollout.opening import LONG, opened

        class Chat:
            def open(self, messages, tools=()):
                return (7,)

        def encode():
            return asyncio.run(asyncio.wait_for(opened(Chat(), [say("user", "x" * LONG)], ()), 30))

        assert encode() == (7,)
        warnings.simplefilter("ignore")
        child = os.fork()
        if child == 0:
            os._exit(0 if encode() == (7,) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, timeout=120)
