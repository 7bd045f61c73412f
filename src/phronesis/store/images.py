"""Pictures of a run: files named by the hash of their bytes, written before the episode that shows them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import msgspec

from phronesis.pictures import Images
from phronesis.records import ImagePart
from phronesis.store.disk import writing
from phronesis.store.folder import write_whole

_HASH = re.compile(r"[0-9a-f]{64}")


class ImageFolder:
    """The pictures in a folder; it is made with the first one."""

    def __init__(self, path: Path) -> None:
        """Makes nothing yet."""
        self.path = path

    def load(self, image: ImagePart) -> bytes:
        """The bytes of a picture.

        Raises:
            KeyError: it is not there, or its file is damaged.
        """
        content = b""
        if _HASH.fullmatch(image.sha256) and (file := self.path / image.sha256).is_file():
            content = file.read_bytes()
        if hashlib.sha256(content).hexdigest() != image.sha256:
            raise KeyError(image.sha256)
        return content

    def keep(self, content: bytes, media_type: str) -> ImagePart:
        """Stores a picture, once.

        Raises:
            DiskError: the disk is full or failing.
        """
        image = ImagePart(sha256=hashlib.sha256(content).hexdigest(), media_type=media_type)
        if not (self.path / image.sha256).exists():
            with writing(self.path):
                self.path.mkdir(exist_ok=True)
            write_whole(self.path / image.sha256, content)
        return image

    def take(self, line: bytes, images: Images) -> list[str]:
        """Stores the pictures that an encoded episode shows; returns the hashes of those that are nowhere any more.

        Args:
            line: the episode, as JSON.
            images: where their bytes lie so far.
        """
        lost: list[str] = []
        for image in _shown(line):
            if _HASH.fullmatch(image.sha256) and (self.path / image.sha256).exists():
                continue
            try:
                self.keep(images.load(image), image.media_type)
            except KeyError:
                lost.append(image.sha256)
        return lost


def _shown(line: bytes) -> Iterator[ImagePart]:
    """The pictures of an encoded episode, each once."""
    if b'"image"' not in line:
        return
    pending, seen = [cast("object", msgspec.json.decode(line))], set[str]()
    while pending:
        at = pending.pop()
        if isinstance(at, list):
            pending += cast("list[object]", at)
        elif isinstance(at, dict):
            table = cast("dict[str, object]", at)
            digest, kind = table.get("sha256"), table.get("media_type")
            if table.get("type") == "image" and isinstance(digest, str) and isinstance(kind, str) and digest not in seen:
                seen.add(digest)
                yield ImagePart(sha256=digest, media_type=kind)
            pending += table.values()
