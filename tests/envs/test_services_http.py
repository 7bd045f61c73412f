"""Pins that nothing a client sends brings a registrar or a service down, and that every refusal is JSON that says why."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from socket import gethostname

import httpx
import msgspec
import pytest
from served_worlds import counter
from test_services_play import NAME, served

from phronesis.envs.services import serve, wire
from phronesis.envs.services.config import token
from phronesis.envs.services.directory import Directory
from phronesis.envs.services.identity import Identity, identify
from phronesis.envs.services.link import Link, address
from phronesis.envs.services.registrar import application, listening
from phronesis.envs.services.wire import Refused, Registration, encode
from phronesis.errors import ConfigError, ServiceFault
from phronesis.serving import serving
from phronesis.train import services

SOUND = {"name": "a", "url": "http://h:1", "capacity": 1, "identity": {"env": "a"}}
SESSION = "/sessions/0123456789abcdef"


@asynccontextmanager
async def both() -> AsyncGenerator[tuple[httpx.AsyncClient, httpx.AsyncClient, Directory]]:
    """A registrar and a service, each with a client."""
    directory = Directory()
    async with (
        serving(application(directory), host="127.0.0.1", port=0, setting="port") as registrar,
        served(counter(), identify(NAME, {}, counter())) as (service, _),
        httpx.AsyncClient(base_url=registrar) as one,
        httpx.AsyncClient(base_url=service) as other,
    ):
        yield one, other, directory


def refused(answer: httpx.Response, *statuses: int) -> str:
    """The code of a refusal, known to be well-formed."""
    assert 400 <= answer.status_code < 500 and (not statuses or answer.status_code in statuses), answer.text
    error = answer.json()["error"]
    assert isinstance(error["message"], str) and error["message"]
    return error["code"]


IMPOSSIBLE = (
    ({"capacity": 0}, "capacity"),
    ({"capacity": "many"}, "capacity"),
    ({"capacity": True}, "capacity"),
    ({"name": ""}, "name"),
    ({"name": "x" * 300}, "name"),
    ({"url": "nowhere"}, "no address"),
    ({"url": "http://a b:1"}, "no address"),
    ({"url": "http://h:99999"}, "no address"),
    ({"url": "file:///etc/passwd"}, "no address"),
    ({"url": 7}, "url"),
    ({"identity": "mine"}, "identity"),
    ({"identity": {}}, "env"),
    ({"abilities": [1]}, "abilities"),
    ({"surprise": 1}, "surprise"),
)


async def test_a_registration_that_cannot_be_is_refused_by_field():
    async with both() as (registrar, _, directory):
        for change, named in IMPOSSIBLE:
            answer = await registrar.post("/services", json=SOUND | change)
            assert refused(answer, 400) == "invalid_request" and named in answer.text
        assert directory.services() == []


async def test_unknown_things_are_unknown():
    async with both() as (registrar, service, _):
        assert refused(await registrar.post("/services/ledger-7/heartbeat", json={"open": 1}), 404) == "unknown_service"
        assert refused(await registrar.delete("/services/ledger-7"), 404) == "unknown_service"
        assert refused(await service.post(f"{SESSION}/step", json={"number": 1, "action": {"role": "assistant"}}), 404)
        assert refused(await service.post(f"{SESSION}/fly", json={"number": 1}), 404) == "unknown_address"
        assert (await service.delete(SESSION)).json() == {"closed": True}  # closing twice is closing
        assert refused(await service.put("/sessions/short", json={"digest": "x"}), 400) == "invalid_request"
        assert refused(await service.put(SESSION, json={"digest": "x"}), 409) == "other_world"
        for client in (registrar, service):
            assert refused(await client.get("/nowhere"), 404) == refused(await client.put("/health"), 405) == "unknown_address"
        assert refused(await service.post("/tasks", json={"split": "heldout", "start": 4}), 404) == "no_task"
        assert refused(await service.post("/tasks", json={"split": "train", "count": 10**6}), 400) == "invalid_request"
        assert refused(await service.post("/demonstration", json={"index": 0, "seed": 1}), 404) == "unable"


async def test_calls_that_lack_something_are_refused_and_cost_the_session_nothing_but_their_number():
    async with both() as (_, service, _):
        digest = identify(NAME, {}, counter()).digest
        await service.put(SESSION, json={"digest": digest})
        assert refused(await service.post(f"{SESSION}/reset", json={"number": 0}), 400)
        assert "task" in (await service.post(f"{SESSION}/reset", json={"number": 1})).text
        task = msgspec.to_builtins(counter().task("train", 0))
        fine = await service.post(f"{SESSION}/reset", json={"number": 2, "task": task, "seed": 1})
        assert fine.status_code == 200 and "0 of 3" in msgspec.msgpack.decode(fine.content)["messages"][0]["content"][0]["text"]
        assert refused(await service.post(f"{SESSION}/expert", json={"number": 3}), 400) == "unable"
        assert refused(await service.post(f"{SESSION}/step", json={"number": 4, "action": {"role": "king"}}), 400)
        assert (await service.post(f"{SESSION}/step", json={"number": 4, "action": {"role": "assistant"}})).status_code == 200


async def test_bodies_that_are_too_large_are_cut_off():
    async with both() as (registrar, service, _):
        assert refused(await registrar.post("/services", content=b"x" * (1 << 20 | 1)), 413) == "too_large"

        async def endless():
            for _ in range(80):
                yield b"x" * (1 << 20)

        try:
            answer = await service.post(f"{SESSION}/step", content=endless())
            assert refused(answer, 413) == "too_large"
        except httpx.WriteError:  # it had heard enough, and closed
            pass
        assert (await service.get("/health")).json()["status"] == "ok"


async def test_bodies_that_stop_coming_are_given_up_and_those_that_are_slow_are_not(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(wire, "STALLED", 2.0)

    async def send(pieces: list[bytes], pause: float) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", registrar.base_url.port)
        writer.write(b"POST /services HTTP/1.1\r\nhost: localhost\r\ncontent-length: 12\r\nconnection: close\r\n\r\n")
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(pause)
        answer = await reader.read()
        writer.close()
        return answer

    async with both() as (registrar, _, _):
        stalled = await asyncio.gather(*(send([b"{"], 0) for _ in range(20)))
        assert all(b" 408 " in answer and b"stopped coming" in answer for answer in stalled)
        slow = await send([b'{"na', b'me":', b" 0 }"], 0.2)
        assert b" 400 " in slow and b"invalid_request" in slow


async def test_no_body_whatever_brings_either_down():
    source = random.Random(7)
    nested = b"[" * 100_000
    sound = encode(Registration(name="a", url="http://h:1", capacity=1, identity=Identity(env="a")))[0]
    bodies = [nested, b'{"number":' + nested, b"\x91" * 100_000, b'{"a":"\xff"}', b"null", b"1e999", b"[]", b'"\\ud800"', b"{}"]
    for _ in range(60):
        broken = bytearray(sound)
        for _ in range(source.randint(1, 6)):
            broken[source.randrange(len(broken))] = source.randrange(256)
        bodies += [bytes(broken), source.randbytes(source.randint(1, 80))]
    kinds = ("application/json", "application/msgpack", "text/plain", "")
    async with both() as (registrar, service, _):
        for number, body in enumerate(bodies):
            head = {"content-type": kinds[number % len(kinds)]}
            answers = [await registrar.post("/services", content=body, headers=head)]
            answers.append(await registrar.post("/services/x/heartbeat", content=body, headers=head))
            for path in (f"{SESSION}/reset", "/tasks", "/score", "/demonstration"):
                answers.append(await service.post(path, content=body, headers=head))
            answers.append(await service.put(SESSION, content=body, headers=head))
            for answer in answers:
                if answer.status_code not in (200, 201):
                    refused(answer)
        assert (await registrar.get("/health")).json()["status"] == "ok"
        assert (await service.get("/health")).json() == {"status": "ok", "open": 0}


async def test_pages_in_a_browser_and_other_names_of_this_machine_are_refused_without_a_token():
    async with both() as (registrar, service, _):
        for client in (registrar, service):
            path = "/services" if client is registrar else "/"
            assert refused(await client.get(path, headers={"origin": "https://evil.example"}), 403) == "foreign_origin"
            assert refused(await client.get(path, headers={"origin": "http://["}), 403) == "foreign_origin"
            assert refused(await client.get(path, headers={"host": "rebound.example"}), 403) == "foreign_origin"


async def test_a_token_is_compared_whatever_it_is():
    with listening(Directory(), "secret2") as at:
        async with httpx.AsyncClient(base_url=at) as client:
            for given in ("", "Bearer", "Bearer secret", "Bearer secret22", b"Bearer \xff", "Basic x", "secret\xe9".encode()):
                assert refused(await client.get("/services", headers={"authorization": given}), 401) == "unauthorized"
            assert (await client.get("/services", headers={"authorization": "Bearer secret2"})).json() == []
            assert (await client.get("/health")).status_code == 200


def test_a_token_that_no_header_can_carry_is_refused(monkeypatch: pytest.MonkeyPatch):
    for wrong in ("sécret", "a b", "a\nb"):
        monkeypatch.setenv("PHRONESIS_SERVICES_TOKEN", wrong)
        with pytest.raises(ConfigError, match="PHRONESIS_SERVICES_TOKEN"):
            token()
    monkeypatch.setenv("PHRONESIS_SERVICES_TOKEN", "")
    assert token() is None


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"", "it broke off"),
        (b"hello\r\n\r\n", "no HTTP server"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "without a length"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n", "without a length"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n", "without a length"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc", "it broke off"),
        (b"x" * 200_000, "no HTTP server"),
    ],
)
async def test_whoever_answers_nonsense_is_a_service_fault(answer: bytes, said: str):
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        link = Link(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        with pytest.raises(ServiceFault, match=said):
            await link.ask("GET", "/")
        link.close()


async def test_a_refusal_keeps_its_code_and_its_pause():
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = b'{"error": {"code": "full", "message": "later"}}'
        writer.write(b"HTTP/1.1 503 Busy\r\nRetry-After: 2.5\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        link = Link(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        with pytest.raises(Refused, match="later") as said:
            await link.ask("GET", "/")
        link.close()
    assert (said.value.status, said.value.code, said.value.retry_after) == (503, "full", 2.5)


def test_addresses():
    assert address("https://host/prefix/") == ("https://host/prefix/", "host", 443, True, "/prefix")
    assert address("http://[::1]:8500").host == "::1"
    for wrong in ("ftp://x", "localhost:80", "http://", "http://a:b", "http://a\n", "http://a/é", ""):
        with pytest.raises(ConfigError, match="no address"):
            address(wrong)


def test_a_service_for_this_machine_alone_does_not_register_elsewhere(monkeypatch: pytest.MonkeyPatch):
    """The run would be told 127.0.0.1, and look for the service on its own machine."""
    at = "http://127.0.0.1:5"
    assert serve._reached_at(at, "127.0.0.1", "http://localhost:8600") == at
    assert serve._reached_at(at, "10.0.0.5", "http://192.0.2.7:8600") == at  # whoever names an address knows
    assert serve._elsewhere("127.0.0.2", 8600) is False  # also this machine
    monkeypatch.setattr(serve, "_elsewhere", lambda host, port: host == "192.0.2.7")
    with pytest.raises(ConfigError, match=r"on another machine and does not reach http://127.0.0.1:5; listen with --host"):
        serve._reached_at(at, "127.0.0.1", "http://192.0.2.7:8600")


def test_a_run_names_itself_where_it_listens_everywhere():
    assert services._named("http://0.0.0.0:8600") == services._named("http://[::]:8600") == f"http://{gethostname()}:8600"
    assert services._named("http://10.0.0.5:8600") == "http://10.0.0.5:8600"
