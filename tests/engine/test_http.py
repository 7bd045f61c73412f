"""The HTTP client against a server that misbehaves on purpose.

Pinned: what is retried and how often, how long it waits, what a fault says, that secrets never show, that half an answer is
none, that no more than the allowed number of requests is in flight.
"""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from random import Random

import pytest
from scripted_server import Said, Script, events, serving

from phronesis.chat.wire.sse import ServerEvent
from phronesis.engine.events import BrokenReply
from phronesis.engine.http import HttpClient, HttpLimits
from phronesis.engine.refusals import retry_after
from phronesis.errors import ConfigError, EndpointFault

FAST = HttpLimits(attempts=4, first_wait=0.5, longest_wait=2.0, attempt_seconds=5.0)


class Clock:
    """Sleeps without sleeping and remembers how long."""

    def __init__(self) -> None:
        self.waits: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)


async def asked(
    script: Script, limits: HttpLimits = FAST, retry: bool = True, **more: object
) -> tuple[object, HttpClient, Clock]:
    """The answer (or the fault) to one POST, with the client and the waits."""
    clock = Clock()
    async with serving(script) as server:
        client = HttpClient(server.url, limits=limits, jitter=Random(0), sleep=clock.sleep, **more)  # type: ignore[arg-type]
        try:
            outcome: object = await client.post("/x", {"a": 1}, retry=retry)
        except EndpointFault as fault:
            outcome = fault
        await client.close()
        return outcome, client, clock


def fault_of(outcome: object) -> EndpointFault:
    assert isinstance(outcome, EndpointFault), outcome
    return outcome


async def test_an_answer_is_its_json():
    async with serving([Said(body={"ok": [1, 2.5, None]}), Said(body=b"")]) as server:
        client = HttpClient(server.url, headers={"authorization": "Bearer k"})
        assert await client.post("/x", {"a": 1}) == {"ok": [1, 2.5, None]}
        assert await client.get("y") is None
        await client.close()
    first, second = server.heard
    assert (first.method, first.path, first.body) == ("POST", "/v1/x", {"a": 1})
    assert first.headers["authorization"] == "Bearer k" and first.headers["content-type"] == "application/json"
    assert (second.method, second.path, second.body) == ("GET", "/v1/y", None)


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504, 529])
async def test_a_passing_failure_is_retried_and_counted(status: int):
    outcome, client, clock = await asked([Said(status), Said(status), Said(body=7)])
    assert outcome == 7
    assert (client.counts.calls, client.counts.attempts, client.counts.failures) == (1, 3, 0)
    assert client.counts.retries == {str(status): 2}
    assert client.counts.waited == sum(clock.waits)


async def test_waits_are_drawn_up_to_a_limit_that_doubles():
    outcome, _, clock = await asked([Said(500)], HttpLimits(attempts=6, first_wait=1.0, longest_wait=3.0))
    draws = Random(0)
    assert clock.waits == [draws.uniform(0, most) for most in (1.0, 2.0, 3.0, 3.0, 3.0)]
    assert fault_of(outcome).attempts == 6


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 413, 422])
async def test_a_lasting_failure_is_told_at_once(status: int):
    outcome, client, clock = await asked([Said(status, {"error": "the reason"})])
    fault = fault_of(outcome)
    assert (fault.status, fault.attempts, client.counts.attempts, clock.waits) == (status, 1, 1, [])
    assert "the reason" in str(fault) and fault.url.endswith("/v1/x") and str(status) in str(fault)
    assert pickle.loads(pickle.dumps(fault)).status == status


async def test_a_server_says_how_long_to_wait():
    outcome, _, clock = await asked(
        [Said(429, headers={"retry-after": "7"}), Said(503, headers={"retry-after-ms": "40"}), Said(body=1)]
    )
    assert outcome == 1
    assert 7.0 <= clock.waits[0] <= 7.5 and 0.04 <= clock.waits[1] <= 0.54


async def test_a_wait_beyond_the_deadline_is_a_fault_now():
    outcome, _, clock = await asked([Said(429, headers={"retry-after": "900"})], HttpLimits(seconds=60.0))
    assert "the server asks to wait 900 s" in str(fault_of(outcome)) and clock.waits == []


def test_retry_after_reads_dates_and_passes_over_nonsense():
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert 25 <= (retry_after({"retry-after": soon}) or 0) <= 31
    assert retry_after({"retry-after": "Mon, 01 Jan 2001 00:00:00 GMT"}) == 0.0
    assert retry_after({"retry-after": "soon"}) is None and retry_after({"retry-after": "inf"}) is None


async def test_the_server_may_say_whether_to_retry():
    outcome, _, _ = await asked([Said(500, headers={"x-should-retry": "false"})])
    assert fault_of(outcome).attempts == 1
    assert (await asked([Said(400, headers={"x-should-retry": "true"}), Said(body=1)]))[0] == 1


async def test_an_empty_account_is_no_passing_failure():
    outcome, _, _ = await asked([Said(429, {"error": {"code": "insufficient_quota"}})])
    assert fault_of(outcome).attempts == 1 and "quota" in str(fault_of(outcome))


async def test_a_dropped_connection_is_retried():
    outcome, client, _ = await asked([Said(drop=True), Said(body={"long": "x" * 99}, cut=20), Said(body=3)])
    assert outcome == 3
    assert client.counts.retries == {"RemoteProtocolError": 2}


async def test_nobody_listening_is_a_fault_that_says_so():
    async with serving([]) as server:
        url = server.url
    client = HttpClient(url, limits=FAST, sleep=Clock().sleep)
    with pytest.raises(EndpointFault, match=r"ConnectError.*check that the server runs") as caught:
        await client.get("/models")
    assert (caught.value.attempts, caught.value.status, caught.value.reason) == (4, None, "ConnectError")


async def test_a_slow_answer_is_given_up_and_asked_again():
    outcome, client, _ = await asked([Said(body=1, delay=0.5), Said(body=2)], HttpLimits(attempt_seconds=0.1, first_wait=0.0))
    assert outcome == 2
    assert sum(client.counts.retries.values()) == 1


async def test_a_call_ends_at_its_deadline_however_many_attempts_are_left():
    outcome, client, _ = await asked([Said(delay=5.0)], HttpLimits(seconds=0.2, attempts=50, first_wait=0.0))
    assert "no whole answer" in str(fault_of(outcome)) and client.counts.failures == 1


@pytest.mark.parametrize("body", [b"{half", b'{"p": NaN}', b"<html>", b"[" * 5000, b"\xff\xfe"])
async def test_what_is_no_json_is_asked_for_once_more_and_then_a_fault(body: bytes):
    outcome, client, _ = await asked([Said(body=body)])
    fault = fault_of(outcome)
    assert (fault.reason, fault.attempts, client.counts.retries) == ("malformed", 2, {"malformed": 1})
    assert "not JSON" in str(fault)


async def test_a_request_that_must_not_be_sent_twice_is_not():
    outcome, client, _ = await asked([Said(503)], retry=False)
    assert fault_of(outcome).attempts == client.counts.attempts == 1


async def test_secrets_never_show():
    outcome, _, _ = await asked([Said(401, {"error": "bad key sk-very-secret"})], secrets=("sk-very-secret",))
    assert "sk-very-secret" not in str(fault_of(outcome)) and "bad key ***" in str(fault_of(outcome))
    client = HttpClient("http://user:hunter2@127.0.0.1:9/v1", limits=HttpLimits(attempts=1))
    with pytest.raises(EndpointFault) as caught:
        await client.get("/models?key=hunter2")
    assert "hunter2" not in str(caught.value)


async def test_no_more_requests_are_in_flight_than_allowed():
    async with serving([Said(body=1, delay=0.02)]) as server:
        client = HttpClient(server.url, limits=HttpLimits(concurrency=3))
        assert await asyncio.gather(*(client.get("/x") for _ in range(12))) == [1] * 12
        await client.close()
    assert server.most_busy == 3


async def joined(stream: AsyncIterator[ServerEvent]) -> str:
    text = ""
    async for event in stream:
        if event.data == "[DONE]":
            return text
        text += event.data
    raise BrokenReply("the stream has no end", "cut")


@pytest.mark.parametrize("cut", [30, 12, 8, 0])
async def test_a_stream_that_breaks_off_is_asked_for_again_from_its_start(cut: int):
    async with serving([events("one", "two", "[DONE]", cut=cut), events("one", "two", "[DONE]")]) as server:
        client = HttpClient(server.url, limits=FAST, sleep=Clock().sleep)
        assert await client.post_stream("/x", {}, joined) == "onetwo"
        assert client.counts.attempts == 2
        await client.close()


async def test_a_stream_without_an_end_or_of_another_kind_is_a_fault():
    async with serving([events("one")]) as server:
        client = HttpClient(server.url, limits=FAST, sleep=Clock().sleep)
        with pytest.raises(EndpointFault, match="the stream has no end") as caught:
            await client.post_stream("/x", {}, joined)
        assert (caught.value.reason, caught.value.attempts) == ("cut", 4)
        server.script = [Said(body={"no": "stream"})]
        with pytest.raises(EndpointFault, match="expected 'text/event-stream', got 'application/json'"):
            await client.post_stream("/x", {}, joined)
        await client.close()


def test_a_client_outlives_its_event_loop():
    async def twice(client: HttpClient) -> object:
        async with serving([Said(body=1)]) as server:
            return await client.get(f"{server.url}/x")

    client = HttpClient("http://127.0.0.1:9")
    assert [asyncio.run(twice(client)) for _ in range(2)] == [1, 1]


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host/v1", "http://", "", "http://[::1"])
def test_an_address_that_is_none_is_refused(url: str):
    with pytest.raises(ConfigError, match="no address"):
        HttpClient(url)


def test_limits_that_let_no_call_through_are_refused():
    with pytest.raises(ConfigError, match=r"http\.attempts must be positive"):
        HttpClient("http://127.0.0.1:9", limits=HttpLimits(attempts=0))
