"""Configurations that lie below the one that is loaded."""

from __future__ import annotations

from typing import Any

import pytest

from dploylib.config import Settings, YAMLConfigMapper
from dploylib.errors import ConfigurationError

pytestmark = pytest.mark.once("nothing here waits, or touches a socket or a greenlet")

ECHO = {"servers": {"echo": {"request": {"uri": "tcp://127.0.0.1:1", "options": {"linger": 1, "sndhwm": 5}}}}}


def load(text: str, *defaults: tuple[str, Any], overrides: dict[str, str] | None = None, **environ: str) -> Settings:
    return YAMLConfigMapper(environ).process_string(text, overrides, defaults)


def general(text: str, *defaults: Any, **options: Any) -> dict[str, Any]:
    given = [(f"number {number}", {"servers": {}, "general": data}) for number, data in enumerate(defaults)]
    return load(f"general: {text}", *given, **options).configuration.general


def problems(text: str, *defaults: tuple[str, Any], **options: Any) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        load(text, *defaults, **options)
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize("text", ["", "{}", "servers:", "servers: {echo: }", "servers: {echo: {request: {}}}"])
def test_what_a_configuration_leaves_out_comes_from_below(text):
    request = load(text, ("below", ECHO)).socket_info("echo", "request")
    assert (request.uri, request.options) == ("tcp://127.0.0.1:1", {"linger": 1, "sndhwm": 5})


def test_mappings_are_merged_and_all_else_is_replaced():
    text = "servers: {echo: {request: {uri: ['tcp://127.0.0.1:2', 'tcp://127.0.0.1:3'], options: {linger: 0}}}}"
    request = load(text, ("below", ECHO)).socket_info("echo", "request")
    assert request.uris == ["tcp://127.0.0.1:2", "tcp://127.0.0.1:3"]
    assert request.options == {"linger": 0, "sndhwm": 5}
    pairs = load("servers: {echo: {request: {options: [[linger, 0]]}}}", ("below", ECHO)).socket_info("echo", "request")
    assert pairs.option_pairs == [("linger", 0)]


def test_of_several_the_last_that_has_a_value_counts():
    weak, strong = {"a": {"x": 1, "y": 1, "z": 1}, "b": [1], "c": 1}, {"a": {"y": 2, "z": 2}, "b": [2, 2]}
    assert general("{a: {z: 3}}", weak, strong) == {"a": {"x": 1, "y": 2, "z": 3}, "b": [2, 2], "c": 1}


def test_null_replaces_a_value_and_is_an_empty_mapping_in_place_of_one():
    assert general("{a: , b: }", {"a": 1, "b": {"c": 2}}) == {"a": None, "b": {"c": 2}}


def test_a_mapping_and_a_value_do_not_mix():
    assert general("{a: 1, b: {c: 1}}", {"a": {"c": 2}, "b": 2}) == {"a": 1, "b": {"c": 1}}


def test_overrides_win_over_all_of_it():
    assert general("{b: 2}", {"a": {"x": 1, "y": 1}}, overrides={"general.a.x": "3"}) == {"a": {"x": 3, "y": 1}, "b": 2}


def test_placeholders_are_filled_below_too():
    below = {"a": "${A}", "b": "${B:-two}", "c": "${C}"}
    assert general("{c: none}", below, A="1") == {"a": 1, "b": "two", "c": "none"}


def test_what_is_merged_is_left_as_it_is():
    below, above = {"general": {"a": {"b": [1]}}}, {"servers": {}, "general": {"a": {"c": 2}}}
    loaded = YAMLConfigMapper({}).process_dict(above, defaults=[("below", below)])
    assert loaded.get("a") == {"b": [1], "c": 2}
    assert below == {"general": {"a": {"b": [1]}}}
    assert above == {"servers": {}, "general": {"a": {"c": 2}}}


def test_an_error_names_the_source_of_what_is_wrong():
    weak = ("template Weak", {"servers": {"echo": {"request": {"uri": "nowhere", "timeout": -1}, "a.b": {}}}})
    strong = ("template Strong", {"servers": {"echo": {"request": {"timeout": "${MISSING}"}}, "x": {"y": {}}}})
    text = "servers:\n  echo:\n    request:\n      concurrency: 0\n      options: {linger: {}}\n"
    found = problems(text, weak, strong)
    assert found[:2] == [
        "string:4: servers.echo.request.concurrency: found 0 (integer), expected integer >= 1 and <= 1000000",
        "string:5: servers.echo.request.options.linger: found mapping, expected string, integer, boolean or "
        "finite number",
    ]
    assert sorted(found[2:]) == [
        "template Strong: servers.echo.request.timeout: the environment variable MISSING is not set; give a default "
        "with ${MISSING:-default}",
        "template Strong: servers.x.y: missing key 'uri' (string or list)",
        "template Weak: servers.echo.a.b: a name has at least one character, and no '.', '/', whitespace or control "
        "characters",
        "template Weak: servers.echo.a.b: missing key 'uri' (string or list)",
        "template Weak: servers.echo.request.uri: found 'nowhere' (string), expected a transport at the start, as in "
        "tcp://127.0.0.1:5000",
    ]


def test_an_error_in_a_dict_above_is_not_blamed_on_what_is_below():
    with pytest.raises(ConfigurationError) as caught:
        YAMLConfigMapper({}).process_dict({"servers": {"echo": {"request": {"uri": 5}}}}, defaults=[("below", ECHO)])
    assert [problem.source for problem in caught.value.problems] == ["dict"]


def test_what_is_replaced_is_not_looked_at():
    wrong = {"servers": {"echo": {"request": {"uri": 5, "timeout": "${MISSING}"}}}}
    text = "servers: {echo: {request: {uri: 'tcp://127.0.0.1:1', timeout: 1}}}"
    assert load(text, ("below", wrong)).socket_info("echo", "request").timeout == 1


def test_values_that_contain_themselves_are_told():
    below: dict[str, Any] = {}
    below["a"] = below
    with pytest.raises(ConfigurationError, match="a value that contains itself"):
        YAMLConfigMapper({}).process_dict({"servers": {}, "general": below}, defaults=[("x", {"general": below})])
