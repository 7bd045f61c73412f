"""What goes to workers and back comes back as it was, pictures included."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from phronesis.cluster.orders import Order, decode_order, decode_played, encode_order, encode_played
from phronesis.pictures import SHELF
from phronesis.records import Episode, EpisodeGroup, ImagePart, Message, Stop, Task
from phronesis.rollout.limits import Limits, Sampling
from phronesis.rollout.play import Ticket


@pytest.mark.parametrize("number", [7, -(2**63), 2**64, 3**200], ids=["small", "64 bits", "65 bits", "318 bits"])
def test_an_order(number):
    task = Task(id="t", env="none", payload={"answer": number, "deep": [{"x": 0.1}]})
    order = Order(
        ticket=Ticket(id="train-0-0-0", task=task, seed=2**64 - 1, group="train-0-0", step=0),
        limits=Limits(seconds=2.5),
        sampling=Sampling(temperature=0.7),
        version=3,
    )
    assert decode_order(encode_order(order)) == order


def test_pictures_travel_where_they_are_asked_to():
    content = b"not really a picture, in a test of orders"
    part = SHELF.keep(content, "image/png")
    gone = ImagePart(sha256="0" * 64, media_type="image/png")
    task = Task(id="t", env="none")
    shown = Episode(id="e", task=task, seed=1, opening=(Message(role="user", content=(part, gone)),), stop=Stop.completed)
    group = EpisodeGroup(id="g", task=task, episodes=(shown, replace(shown, id="f")))
    light, heavy = encode_played(group, pictures=False), encode_played(group, pictures=True)
    del SHELF._held[part.sha256]
    assert decode_played(light) == group
    with pytest.raises(KeyError):
        SHELF.load(part)
    assert decode_played(heavy) == group and SHELF.load(part) == content
    assert heavy.count(content) == 1
