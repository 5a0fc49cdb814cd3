"""The published schemas: they are what the types say, and an independent validator comes to the same verdicts."""

import copy
import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from dploylib.cli import cli
from dploylib.errors import InvalidData
from dploylib.messages import MESSAGES, BroadcastMessage
from tests.messages.samples import MESSAGES_OF, VALID

pytestmark = pytest.mark.once("nothing here waits, or touches a socket or a greenlet")

SCHEMAS = Path(__file__).parent.parent.parent / "docs" / "schemas"
JSON, MSGPACK = "application/json", "application/msgpack"


def published(name: str) -> jsonschema.Draft202012Validator:
    schema = json.loads((SCHEMAS / f"{name}.json").read_text(encoding="utf-8"))
    return jsonschema.Draft202012Validator(schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)


VALIDATORS = {name: published(name) for name in MESSAGES}


@pytest.mark.parametrize("name", MESSAGES)
def test_the_published_schema_is_what_the_command_prints(name):
    printed = CliRunner().invoke(cli, ["schema", name], prog_name="dploylib").output
    file = SCHEMAS / f"{name}.json"
    assert file.read_text(encoding="utf-8") == printed, f"renew it: dploylib schema {name} > {file}"


def test_there_is_a_schema_of_every_message_and_of_nothing_else():
    assert {file.name for file in SCHEMAS.iterdir()} == {f"{name}.json" for name in MESSAGES}


@pytest.mark.parametrize("name", MESSAGES)
def test_a_published_schema_is_a_valid_one_and_describes_every_field(name):
    schema = VALIDATORS[name].schema
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert (schema["$id"], schema["title"]) == (f"urn:dploylib:message:{name}", name)
    for part in (schema, *schema.get("$defs", {}).values()):
        assert part["description"]
        assert all("description" in field for field in part.get("properties", {}).values())


@given(st.one_of(*MESSAGES_OF.values()))
def test_every_message_is_valid_by_its_published_schema(message):
    VALIDATORS[type(message).__name__].validate(message.serialize())


# Mutations -------------------------------------------------------------------------------------------------------
#
# 1.0 is an integer to JSON Schema, and none to us, so no value here is one (see test_messages.py).

OTHER_VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    7,
    -1,
    1.5,
    2**53,
    "",
    "x",
    "0",
    "a\0b",
    [],
    ["x"],
    [1],
    {},
    {"x": "y"},
]
ENDINGS = ["\n", " ", "g", "\0", "#", "%", "ä"]


def places_in(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths to everything in `data`, itself included."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [path, *(place for key, value in items for place in places_in(value, (*path, key)))]


def mutated(data: Any, chance: random.Random) -> Any:
    """`data` with one change somewhere."""
    box = [copy.deepcopy(data)]
    *way, last = chance.choice(places_in(box)[1:])
    parent: Any = box
    for key in way:
        parent = parent[key]
    value = parent[last]
    changes: list[Any] = [lambda: chance.choice(OTHER_VALUES), lambda: chance.choice([{"extra": value}, [value]])]
    if isinstance(value, str):
        at = chance.randrange(len(value) + 1)
        changes += [
            lambda: value + chance.choice(ENDINGS),
            lambda: value[1:],
            lambda: value[:at] + value[at + 1 :],
            lambda: value[:at] + chance.choice(ENDINGS) + value[at:],
            value.upper,
        ]
    if isinstance(value, dict):
        changes += [
            lambda: {**value, chance.choice(["extra", "a.b", "A=", "", "ä", "\0"]): chance.choice(OTHER_VALUES)}
        ] * 3
    change = chance.randrange(len(changes) + 1)
    if change == len(changes) and parent is not box:
        del parent[last]
    else:
        parent[last] = changes[change % len(changes)]()
    return box[0]


def swapped(data: Any, chance: random.Random) -> Any:
    """A broadcast of the other type, or with the body of another one."""
    bodies = [{"type": kind} for kind in ("line", "raw", "info", "error", "completed", "other")]
    return {**data, "type": chance.choice(["output", "status"]), "body": chance.choice(bodies)}


def verdict(decode: Callable[..., Any], *arguments: Any) -> str | None:
    """The path of what is wrong, or None."""
    try:
        decode(*arguments)
    except InvalidData as error:
        return str(error).partition(": ")[0]
    return None


def test_a_thousand_mutated_messages_are_judged_as_the_published_schemas_do():
    chance = random.Random(20)
    verdicts: Counter[tuple[str, bool]] = Counter()
    for number in range(1000):
        message, data = VALID[number % len(VALID)]
        mutate = swapped if message is BroadcastMessage and chance.random() < 0.3 else mutated
        changed = mutate(data, chance)
        wrong = {error.json_path for error in VALIDATORS[message.__name__].iter_errors(changed)}
        path = verdict(message.deserialize, changed)
        assert (path in wrong) if wrong else path is None, f"{message.__name__} of {changed}: {path}, and not {wrong}"
        assert verdict(message.from_bytes, json.dumps(changed).encode(), JSON) == path
        assert verdict(message.from_bytes, msgspec.msgpack.encode(changed), MSGPACK) == path
        verdicts[message.__name__, path is None] += 1
    # Every kind was accepted and refused often enough for that to mean something.
    assert set(verdicts) == {(name, accepted) for name in MESSAGES for accepted in (True, False)}
    assert min(verdicts.values()) >= 5, verdicts
    assert sum(count for (_, accepted), count in verdicts.items() if not accepted) > 500, verdicts
