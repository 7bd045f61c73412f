from __future__ import annotations

import asyncio
import multiprocessing as mp

import httpx
import pytest
import torch
from torch import nn

from phronesis.engine.weights import http
from phronesis.engine.weights.bucket import pack
from phronesis.engine.weights.http import Receiver, send
from phronesis.errors import ConfigError, WeightsError
from phronesis.serving import serving

TOKEN = "a-token-of-enough-length"


def net(value=0.0, width=4):
    model = nn.Linear(width, 2)
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(value)
    return model


def with_receiver(use, model=None):
    """Runs ``use(receiver, url, client)`` against a server on a port of this machine."""

    async def main():
        receiver = Receiver((model or net()).named_parameters(), TOKEN)
        async with (
            serving(receiver.app, host="127.0.0.1", port=0, setting="port") as url,
            httpx.AsyncClient(trust_env=False, timeout=30) as client,
        ):
            return await use(receiver, url, client)

    return asyncio.run(main())


def test_a_pushed_bucket_is_loaded():
    async def use(receiver, url, client):
        with pytest.raises(WeightsError, match="no weights have come"):
            receiver.load_into(net())
        waiting = asyncio.create_task(receiver.wait())
        copy = net()
        for version in (3, 4, 4, 9):
            assert await send(client, url, TOKEN, pack(net(float(version)).named_parameters(), version)) == version
            assert receiver.load_into(copy) == version and set(copy.weight.flatten().tolist()) == {float(version)}
        assert await waiting == 3 and receiver.refused == 0
        told = await client.get(f"{url}/weights", headers={"authorization": f"Bearer {TOKEN}"})
        assert told.json() == {"version": 9, "bytes": receiver.layout.nbytes}

    with_receiver(use)


def test_a_sender_that_falls_silent_does_not_keep_others_out(monkeypatch):
    """As when its machine dies: the connection stays open, and nothing ends it."""
    monkeypatch.setattr(http, "STALLED", 0.5)

    async def use(receiver, url, client):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        head = f"PUT /weights HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\ncontent-length: {len(GOOD)}\r\n\r\n"
        writer.write(head.encode() + GOOD[:100])
        assert b" 408 " in await reader.readline()
        assert await send(client, url, TOKEN, GOOD) == 6 and receiver.refused == 1
        writer.close()

    with_receiver(use)


def flipped(bucket, at=-200):
    changed = bytearray(bucket)
    changed[at] ^= 1
    return changed


GOOD = bytes(pack(net(1.0).named_parameters(), 6))


@pytest.mark.parametrize(
    ("bucket", "message"),
    [
        (flipped(GOOD), r"422\): .*damaged"),
        (bytes(len(GOOD)), r"422\): the buffer begins with"),
        (bytes(pack(net(width=400).named_parameters(), 6)), r"413\): .* announced"),
        (GOOD[:-1], r"413\): .* announced"),
        (b"", r"413\)"),
        (bytes(pack(dict(zip(("weighs", "bias"), net().parameters(), strict=True)), 6)), r"422\): .*other tensors"),
        (bytes(pack(net().named_parameters(), 4)), r"409\): version 4 is older"),
    ],
)
def test_what_is_wrong_is_refused_and_what_came_before_stays(bucket, message):
    async def use(receiver, url, client):
        await send(client, url, TOKEN, pack(net(5.0).named_parameters(), 5))
        with pytest.raises(WeightsError, match=message):
            await send(client, url, TOKEN, bucket)
        copy = net()
        assert receiver.load_into(copy) == 5 and copy.bias.tolist() == [5, 5] and receiver.refused == 1
        assert await send(client, url, TOKEN, GOOD) == 6

    with_receiver(use)


@pytest.mark.parametrize("header", [{}, {"authorization": "Bearer wrong"}, {"authorization": TOKEN}])
def test_nobody_without_the_token_is_heard(header):
    async def use(receiver, url, client):
        for answer in (
            await client.put(f"{url}/weights", content=GOOD, headers=header),
            await client.get(f"{url}/weights", headers=header),
        ):
            assert answer.status_code == 401 and "Bearer" in answer.json()["error"]
        assert receiver.version is None

    with_receiver(use)


def test_a_body_without_a_length_is_cut_off_where_it_grows_too_long():
    async def use(receiver, url, client):
        async def endless():
            for _ in range(50):
                yield GOOD

        with Either():
            answer = await client.put(f"{url}/weights", content=endless(), headers={"authorization": f"Bearer {TOKEN}"})
            assert answer.status_code == 413
        assert receiver.version is None
        assert await send(client, url, TOKEN, GOOD) == 6

    with_receiver(use)


class Either:
    """The sender sees the refusal, or only that the connection was closed on it."""

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        return kind is not None and issubclass(kind, httpx.HTTPError)


def test_a_sender_that_goes_away_in_the_middle_changes_nothing():
    async def use(receiver, url, client):
        await send(client, url, TOKEN, GOOD)
        host, port = url.removeprefix("http://").split(":")
        _, out = await asyncio.open_connection(host, int(port))
        head = f"PUT /weights HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\ncontent-length: {len(GOOD)}\r\n\r\n"
        out.write(head.encode() + GOOD[: len(GOOD) // 2])
        await out.drain()
        while not receiver._coming:
            await asyncio.sleep(0.005)
        with pytest.raises(WeightsError, match=r"409\): another upload is under way"):
            await send(client, url, TOKEN, GOOD)
        out.close()
        while receiver._coming:
            await asyncio.sleep(0.005)
        copy = net()
        assert receiver.load_into(copy) == 6 and copy.bias.tolist() == [1, 1]
        assert await send(client, url, TOKEN, pack(net(8.0).named_parameters(), 8)) == 8

    with_receiver(use)


def test_nobody_answers():
    async def use(receiver, url, client):
        with pytest.raises(WeightsError, match="no answer"):
            await send(client, "http://127.0.0.1:9", TOKEN, GOOD)

    with_receiver(use)


def test_a_token_must_be_hard_to_guess():
    with pytest.raises(ConfigError, match="16"):
        Receiver(net().named_parameters(), "short")


def receive(pipe):
    async def main():
        model = net(width=3000)
        receiver = Receiver(model.named_parameters(), TOKEN)
        async with serving(receiver.app, host="127.0.0.1", port=0, setting="port") as url:
            pipe.send(url)
            found = []
            for version in range(3):
                await receiver.wait(newer_than=version - 1)
                receiver.load_into(model)
                found.append((receiver.version, model.weight.unique().tolist()))
                pipe.send("loaded")
            pipe.send(found)

    asyncio.run(main())


def test_weights_reach_another_process():
    ours, theirs = mp.get_context("spawn").Pipe()
    process = mp.get_context("spawn").Process(target=receive, args=(theirs,))
    process.start()
    assert ours.poll(60)
    url = ours.recv()

    async def main():
        async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
            for version in range(3):
                await send(client, url, TOKEN, pack(net(float(version), 3000).named_parameters(), version))
                assert await asyncio.to_thread(ours.poll, 30) and ours.recv() == "loaded"

    asyncio.run(main())
    assert ours.poll(30) and ours.recv() == [(v, [float(v)]) for v in range(3)]
    process.join(30)
    assert process.exitcode == 0
