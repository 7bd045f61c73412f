"""Pictures of episodes lie in the run folder, named by their bytes."""

from __future__ import annotations

import hashlib

import pytest
from store_samples import Config, episode

from phronesis.pictures import SHELF
from phronesis.records import ImagePart, Message, Task, TextPart
from phronesis.store import ImageFolder, Run


def showing(*images):
    """An episode that shows pictures."""
    said = Message(role="tool", content=(TextPart(text='an "image"'), *images))
    return episode(1, task=Task(id="t", env="ledger", messages=(said,)))


def test_pictures_are_kept_with_the_episodes_that_show_them(tmp_path):
    held, gone = SHELF.keep(b"\x89PNG of a run", "image/png"), ImagePart(sha256="0" * 64, media_type="image/png")
    with Run.create(tmp_path / "run", Config()) as run:
        run.append(episode(0))
        assert not run.layout.blobs.exists()
        run.append(showing(held, held))
        run.append(showing(held), kind="heldout")
    found = Run.open(tmp_path / "run")
    assert found.images.load(held) == b"\x89PNG of a run" and found.events() == []
    assert [path.name for path in found.layout.blobs.iterdir()] == [hashlib.sha256(b"\x89PNG of a run").hexdigest()]
    with Run.create(tmp_path / "run", Config(), resume=True) as run:
        run.append(showing(gone, held))
    (event,) = Run.open(tmp_path / "run").events()
    assert (event.kind, event.fields) == ("pictures lost", {"count": 1})
    assert "1 pictures of episode 'train-1' could not be kept" in event.message


def test_a_damaged_picture_and_an_odd_name_are_not_there(tmp_path):
    images = ImageFolder(tmp_path / "blobs")
    kept = images.keep(b"whole", "image/png")
    assert images.load(kept) == b"whole" and images.keep(b"whole", "image/png") == kept
    (tmp_path / "blobs" / kept.sha256).write_bytes(b"half")
    (tmp_path / "secret").write_bytes(b"secret")
    for name in (kept.sha256, "../secret", "/etc/passwd", "", "F" * 64):
        with pytest.raises(KeyError):
            images.load(ImagePart(sha256=name, media_type="image/png"))
