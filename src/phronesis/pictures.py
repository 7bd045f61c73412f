"""Pictures, each kept once under the hash of its bytes; messages hold only the hash (`ImagePart`)."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Protocol

from phronesis.records import ImagePart

SHELF_BYTES = 256 << 20
"""Bytes of pictures a process keeps for its tools; the oldest go first."""


class Images(Protocol):
    """Where the bytes of pictures lie."""

    def load(self, image: ImagePart) -> bytes:
        """The bytes of a picture.

        Raises:
            KeyError: it is not there.
        """
        ...

    def keep(self, content: bytes, media_type: str) -> ImagePart:
        """Stores a picture and returns the reference to it."""
        ...


class ImageShelf:
    """Pictures in memory, each once.

    >>> shelf = ImageShelf()
    >>> shelf.load(shelf.keep(b"bytes", "image/png"))
    b'bytes'
    """

    def __init__(self, most: int | None = None) -> None:
        """Starts empty.

        Args:
            most: bytes that are kept; the pictures kept longest ago go first. None means all.
        """
        self.most, self.size = most, 0
        self._held: OrderedDict[str, bytes] = OrderedDict()

    def load(self, image: ImagePart) -> bytes:
        """The bytes of a picture; KeyError when it was never kept here, or had to go."""
        return self._held[image.sha256]

    def keep(self, content: bytes, media_type: str) -> ImagePart:
        """Stores a picture."""
        digest = hashlib.sha256(content).hexdigest()
        if digest in self._held:
            self._held.move_to_end(digest)
        else:
            self._held[digest] = content
            self.size += len(content)
        while self.most is not None and self.size > self.most and len(self._held) > 1:
            self.size -= len(self._held.popitem(last=False)[1])
        return ImagePart(sha256=digest, media_type=media_type)


SHELF = ImageShelf(SHELF_BYTES)
"""Where the pictures lie that tools of this process return."""
