"""The object of the JSON case, and two ways from its JSON to its JSON. Apart, so that other cases do not load this."""

from __future__ import annotations

import json

import msgspec


class Article(msgspec.Struct):
    """What is sent to and fro."""

    number: int
    name: str
    price: float
    tags: list[str]
    sold: bool


def by_msgspec(body: bytes) -> bytes:
    """Make an object, with checked types, and JSON of it."""
    return msgspec.json.encode(msgspec.json.decode(body, type=Article))


def by_json(body: bytes) -> bytes:
    """Make a dict with the module json, and JSON of it."""
    return json.dumps(json.loads(body), separators=(",", ":")).encode()


CONVERTERS = {"msgspec": by_msgspec, "json": by_json}
