"""From a file, a text or a dict to `Settings`."""

from __future__ import annotations

import contextlib
import copy
import json
import textwrap
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dploylib.config import Declared, Settings, YAMLConfigMapper
from dploylib.errors import ConfigurationError

pytestmark = pytest.mark.once("nothing here waits, or touches a socket or a greenlet")

GOOD = """
servers:
  echo:
    request:
      uri: tcp://127.0.0.1:14445
general:
  someconfig1: somevalue1
"""


def load(text: str, overrides: dict[str, str] | None = None, **environ: str) -> Settings:
    return YAMLConfigMapper(environ).process_string(textwrap.dedent(text), overrides)


def load_dict(data: Any, overrides: dict[str, str] | None = None, **environ: str) -> Settings:
    return YAMLConfigMapper(environ).process_dict(data, overrides)


def general(text: str, **environ: str) -> Any:
    """The value of `text`, written after a key in the section `general`."""
    return load(f"servers: {{}}\ngeneral:\n  value: {text}\n", **environ).get("value")


def problems(text: str, overrides: dict[str, str] | None = None, **environ: str) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        load(text, overrides, **environ)
    return [str(problem) for problem in caught.value.problems]


def problem(text: str, overrides: dict[str, str] | None = None, **environ: str) -> str:
    (only,) = problems(text, overrides, **environ)
    return only


# Files ---------------------------------------------------------------------------------------------------------


def test_a_file_a_string_and_a_dict_give_the_same_settings(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(GOOD)
    data = {
        "servers": {"echo": {"request": {"uri": "tcp://127.0.0.1:14445"}}},
        "general": {"someconfig1": "somevalue1"},
    }
    mapper = YAMLConfigMapper()
    expected = mapper.process_dict(data).configuration
    assert mapper.process(file).configuration == expected
    assert mapper.process(str(file)).configuration == expected
    assert mapper.process_string(GOOD).configuration == expected


def process_error(path: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        YAMLConfigMapper().process(path)
    return str(caught.value)


def test_a_problem_in_a_file_names_the_file_as_it_was_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text("servers:\n  echo:\n    request: {}\n")
    assert process_error("config.yaml").startswith("config.yaml:3: servers.echo.request: missing key 'uri'")


def test_a_missing_file_says_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert f"no such file: {tmp_path / 'config.yaml'}" in process_error("config.yaml")


def test_what_is_no_readable_file_says_why(tmp_path):
    assert "Is a directory" in process_error(tmp_path)
    assert "null byte" in process_error("a\0b")


def test_a_file_that_is_not_utf8_names_the_line(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_bytes(b"servers: {}\ngeneral:\n  name: caf\xe9\n")
    assert process_error(file) == f"{file}:3: not UTF-8 (byte 0xe9)"


def test_a_byte_order_mark_is_no_problem(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(GOOD, encoding="utf-8-sig")
    assert YAMLConfigMapper().process(file).server_names == ["echo"]


@pytest.mark.parametrize("text", ["", "# nothing but a comment", "---", "null"])
def test_an_empty_configuration_says_what_was_expected(text):
    assert problem(text).endswith(
        "the configuration is empty, expected a mapping with the keys servers, supervision, security, daemon, "
        "monitoring, settings and general"
    )


def test_a_list_at_the_top_is_a_problem():
    sections = "servers, supervision, security, daemon, monitoring, settings, general"
    assert problem("- servers") == f"string:1: found list, expected mapping ({sections})"


# YAML ----------------------------------------------------------------------------------------------------------


def test_all_problems_come_at_once_sorted_by_line():
    found = problems(
        """\
        servers:
          echo:
            request:
              urii: tcp://127.0.0.1:14445
              concurrency: true
              timeout: 5
              timeout: ${UNSET}
          queue:
            out: {uri: "127.0.0.1:1"}
        other: 1
        """
    )
    assert [line.split(": ")[0:2] for line in found] == [
        ["string:3", "servers.echo.request"],
        ["string:4", "servers.echo.request.urii"],
        ["string:5", "servers.echo.request.concurrency"],
        ["string:7", "servers.echo.request.timeout"],
        ["string:7", "servers.echo.request.timeout"],
        ["string:9", "servers.queue.out.uri"],
        ["string:10", "other"],
    ]


def test_a_syntax_error_has_the_line_and_what_the_parser_says():
    message = problem("servers:\n  echo: [1\n  other: 2\n")
    assert message.startswith("string:3: invalid YAML: ")
    assert "expected ',' or ']'" in message


def test_a_syntax_error_hides_no_other_problem_and_invents_none():
    assert len(problems("servers: [", {"servers.echo.request.uri": "inproc://x"})) == 1


def test_a_duplicate_key_names_both_lines():
    assert problem("servers: {}\ngeneral:\n  a: 1\n  a: 2\n") == (
        "string:4: general.a: duplicate key 'a', already on line 3"
    )


@pytest.mark.parametrize(("key", "hint"), [("on", 'quote the key, as in "on"'), ("1", 'quote it: "1"')])
def test_a_key_that_yaml_does_not_read_as_a_string_has_to_be_quoted(key, hint):
    message = problem(f"servers:\n  {key}:\n    request: {{uri: inproc://x}}\n")
    assert message.startswith("string:2: servers.")
    assert hint in message
    (name,) = load(f"servers:\n  '{key}': {{}}\n").server_names
    assert name == key
    assert type(name) is str


def test_merge_keys_and_aliases_work_and_own_keys_win():
    settings = load(
        """\
        servers:
          a:
            x: &defaults {uri: inproc://x, timeout: 5, options: {linger: 0}}
            y: {<<: *defaults, uri: inproc://y}
            z: *defaults
          b:
            w:
              <<: [{timeout: 1}, *defaults]
        """
    )
    assert settings.socket_info("a", "y").uri == "inproc://y"
    assert settings.socket_info("a", "y").timeout == 5
    assert settings.socket_info("a", "z") == settings.socket_info("a", "x")
    assert settings.socket_info("b", "w").timeout == 1
    assert settings.socket_info("b", "w").options == {"linger": 0}


def test_a_problem_in_a_merged_value_has_the_line_where_it_is_written():
    first, second = problems(
        """\
        servers:
          a:
            x: &defaults
              uri: inproc://x
              timeout: 0
            y:
              <<: *defaults
              uri: inproc://y
        """
    )
    assert first.startswith("string:5: servers.a.x.timeout: found 0")
    assert second.startswith("string:5: servers.a.y.timeout: found 0")


def test_an_alias_has_the_line_where_it_is_used():
    settings = load("general: {shared: &s {uri: inproc://x}}\nservers:\n  a:\n    x: *s\n")
    assert settings.problem(("servers", "a", "x"), "no").line == 4


@pytest.mark.parametrize("value", ["&a [*a]", "&a {b: *a}", "&a {<<: *a}", "&a {b: {<<: *a}}", "&a [*a, *a]"])
def test_an_alias_to_itself_is_a_problem(value):
    assert "an alias refers to a value that it is itself part of" in problems(f"servers: {{}}\ngeneral: {value}")[0]


def test_aliases_of_aliases_cannot_exhaust_the_memory():
    rows = ["  a: &a [x, x, x, x, x, x, x, x, x, x]"]
    rows += [
        f"  {name}: &{name} [{', '.join([f'*{last}'] * 10)}]" for last, name in zip("abcdefg", "bcdefgh", strict=True)
    ]
    assert "more than 100000 values" in problem("servers: {}\ngeneral:\n" + "\n".join(rows))


@pytest.mark.parametrize("depth", [200, 5000])
def test_deep_nesting_is_a_problem(depth):
    assert "nested more than 100 levels deep" in problem(f"servers: {{}}\ngeneral: {{a: {'[' * depth}{']' * depth}}}")


@pytest.mark.parametrize(
    "value",
    ["!!python/object/apply:os.getcwd []", "!!python/name:os.getcwd", "!custom 1", "!custom {a: 1}", "!!set {a}"],
)
def test_tags_beyond_plain_yaml_are_refused(value):
    assert "this tag is not supported here" in problem(f"servers: {{}}\ngeneral:\n  a: {value}\n")


@pytest.mark.parametrize("value", ["!!int abc", "!!int ''", "!!bool maybe", "!!timestamp x", "2024-99-99", "!!float x"])
def test_a_scalar_that_is_not_what_it_claims_is_a_problem(value):
    message = problem(f"servers: {{}}\ngeneral:\n  a: {value}\n")
    assert message.startswith("string:3: general.a: not a valid ")


@pytest.mark.parametrize("value", ["*hunter2", "!hunter2", "'${hunter2'", "%hunter2", "${1hunter2}"])
def test_a_password_is_not_quoted_in_an_error(value):
    message = problem(f"servers: {{}}\ngeneral:\n  password: {value}\n")
    assert "string:3: " in message
    assert "hunter2" not in message
    assert "hunter2" not in problem(GOOD, {"general.password": value})


# Environment ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${N}", 10),
        ('"${N}"', "10"),
        ("'${N}'", "10"),
        ("1${N}", 110),
        ("${UNSET:-2.5}", 2.5),
        ("${UNSET:-}", None),
        ("${EMPTY}", None),
        ("'${EMPTY}'", ""),
        ("${EMPTY:-5}", 5),
        ("'${EMPTY:-5}'", "5"),
        ("${YES}", True),
        ("${LIST}", "[1, 2]"),
        ("tcp://${HOST:-127.0.0.1}:${N}", "tcp://127.0.0.1:10"),
        ("$${N}", "${N}"),
        ("$$${N}", "$${N}"),
        ("$${N} ${N}", "${N} 10"),
        ("$N costs 5$", "$N costs 5$"),
        ("${NESTED}", "${N}"),
        ("[\"${N}\", '${UNSET:-a: b}']", ["10", "a: b"]),
    ],
)
def test_placeholders_are_filled_and_plain_scalars_resolved_again(text, value):
    filled = general(text, N="10", EMPTY="", YES="yes", LIST="[1, 2]", NESTED="${N}")
    assert filled == value
    assert type(filled) is type(value)


def test_placeholders_make_typed_values():
    request = load(
        """\
        servers:
          echo:
            request:
              uri: tcp://${HOST}:${PORT:-14445}
              concurrency: ${N:-10}
        """,
        HOST="10.0.0.1",
    ).socket_info("echo", "request")
    assert (request.uri, request.concurrency) == ("tcp://10.0.0.1:14445", 10)


def test_keys_are_not_filled():
    assert load("servers: {}\ngeneral:\n  ${N}: 1\n", N="10").get("${N}") == 1


def test_an_unset_variable_is_named_with_the_way_to_give_a_default():
    message = problem("servers: {}\ngeneral:\n  a: ${HOST} ${PORT:-1}\n")
    assert message == (
        "string:3: general.a: the environment variable HOST is not set; give a default with ${HOST:-default}"
    )


def test_every_unset_variable_of_a_value_is_named():
    assert len(problems("servers: {}\ngeneral:\n  a: ${A}${B}\n")) == 2


@pytest.mark.parametrize("value", ["${", "${}", "${1X}", "${A", "${A-b}", "${A B}", "${A:-${B}}"])
def test_a_malformed_placeholder_is_a_problem(value):
    first, *_ = problems(f"servers: {{}}\ngeneral:\n  a: '{value}'\n", A="a", B="b")
    assert "malformed placeholder '${" in first
    assert "expected ${NAME} or ${NAME:-default}" in first


def test_a_value_that_could_not_be_filled_is_reported_once():
    assert len(problems("servers:\n  a:\n    b:\n      uri: inproc://x\n      concurrency: ${N}\n")) == 1


def test_a_placeholder_in_a_flow_mapping_has_to_be_quoted_and_the_error_says_so():
    assert "a placeholder inside { } or [ ] has to be quoted" in problem("servers: {}\ngeneral: {a: ${N}}")


def test_strings_of_a_dict_are_resolved_only_if_they_had_placeholders():
    settings = load_dict({"servers": {}, "general": {"a": "${N}", "b": "10", "c": ["${N}"], "d": ("x",)}}, N="10")
    assert settings.configuration.general == {"a": 10, "b": "10", "c": [10], "d": ["x"]}


def test_without_a_mapping_of_its_own_a_mapper_reads_the_environment_when_it_loads(monkeypatch):
    mapper = YAMLConfigMapper()
    monkeypatch.setenv("DPLOYLIB_TEST_VALUE", "7")
    assert mapper.process_dict({"servers": {}, "general": {"a": "${DPLOYLIB_TEST_VALUE}"}}).get("a") == 7


def test_a_dict_that_contains_itself_is_a_problem():
    data: dict[str, Any] = {"servers": {}, "general": {}}
    data["general"]["a"] = data["general"]["b"] = data
    with pytest.raises(ConfigurationError, match=r"dict: general\.a: a value that contains itself"):
        load_dict(data)


@given(st.text(st.characters(codec="utf-8")))
def test_a_quoted_placeholder_gives_back_any_value(value):
    assert general('"${VALUE}"', VALUE=value) == value


@given(st.text(st.characters(codec="utf-8")))
def test_any_text_can_be_escaped(value):
    escaped = value.replace("${", "$${")
    data = load_dict({"servers": {}, "general": {"a": escaped}})
    assert data.get("a") == value


@given(st.integers() | st.booleans() | st.none() | st.lists(st.integers()))
def test_a_plain_placeholder_gives_back_any_plain_scalar(value):
    text = json.dumps(value)
    assert general("${VALUE}", VALUE=text) == (text if isinstance(value, list) else value)


# Overrides -----------------------------------------------------------------------------------------------------


def test_an_override_replaces_a_value():
    settings = load(GOOD, {"servers.echo.request.uri": "tcp://127.0.0.1:*"})
    assert settings.socket_info("echo", "request").uri == "tcp://127.0.0.1:*"


def test_an_override_is_a_yaml_value_and_is_filled():
    settings = load(
        GOOD,
        {
            "servers.echo.request.concurrency": "${N}",
            "servers.echo.request.options": "{linger: 0}",
            "general.quoted": "'${N}'",
            "general.null": "",
        },
        N="3",
    )
    assert settings.socket_info("echo", "request").concurrency == 3
    assert settings.socket_info("echo", "request").options == {"linger": 0}
    assert settings.get("quoted") == "3"
    assert settings.get("null") is None


def test_an_override_creates_what_is_missing_on_the_way():
    assert load("", {"servers.a.b.uri": "inproc://x"}).socket_info("a", "b").uri == "inproc://x"
    assert load("servers: {a: null}", {"servers.a.b.uri": "inproc://x"}).socket_info("a", "b").uri == "inproc://x"


def test_an_override_can_mend_what_could_not_be_filled():
    assert load("servers: {}\ngeneral:\n  a: ${UNSET}\n", {"general.a": "1"}).get("a") == 1


def test_the_last_of_two_overrides_wins():
    assert load(GOOD, {"general.a.b": "1", "general.a": "2"}).get("a") == 2


def test_the_dict_of_the_caller_is_not_changed():
    data = {"servers": {"a": {"b": {"uri": "inproc://x"}}}, "general": {"c": [1, {"d": "${N}"}]}}
    before = copy.deepcopy(data)
    load_dict(data, {"servers.a.b.uri": "inproc://y", "general.c": "1"}, N="1")
    load_dict(data, N="1")
    assert data == before


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("", "1", "--set: '': a path is made of keys with dots between them"),
        ("general..a", "1", "--set: general.''.a: a path is made of keys"),
        ("general.someconfig1.x", "1", "--set: general.someconfig1.x: cannot be set, as general.someconfig1 is"),
        ("servers.echo.request.uri", "5", "--set: servers.echo.request.uri: found 5 (integer), a port needs"),
        ("servers.echo.request.uri", "*", "--set: servers.echo.request.uri: invalid YAML: "),
        ("servers.echo.request.timeot", "5", "--set: servers.echo.request.timeot: unknown key 'timeot'; did you"),
        ("servers.echo.request", "{}", "--set: servers.echo.request: missing key 'uri'"),
        ("servers.echo.other.timeout", "5", "--set: servers.echo.other: missing key 'uri'"),
        ("general.a", "${UNSET}", "--set: general.a: the environment variable UNSET is not set"),
        ("general.a", "{b: 1, b: 2}", "--set: general.a.b: duplicate key 'b'"),
    ],
)
def test_a_bad_override_is_a_problem_with_the_source_set(path, value, message):
    assert problem(GOOD, {path: value}).startswith(message)


# Lines for others ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("servers",), 2),
        (("servers", "echo", "request", "uri"), 5),
        (("servers", "echo", "reply"), 3),
        (("servers", "echo", "reply", "uri"), 3),
        (("servers", "queue"), 2),
        ((), 2),
    ],
)
def test_a_path_that_is_not_there_has_the_line_of_its_nearest_ancestor(path, line):
    found = load(GOOD).problem(path, "something")
    assert (found.source, found.line, found.message) == ("string", line, "something")


def test_what_was_overridden_has_the_source_set():
    settings = load(GOOD, {"servers.echo.request": "{uri: inproc://x}"})
    found = settings.problem(("servers", "echo", "request", "uri"), "something")
    assert (found.source, found.line) == ("--set", None)


def test_problems_with_what_is_declared_have_lines():
    found = load(GOOD).check_declared({"echo": Declared(["reqest"])})
    assert [(one.path, one.line) for one in found] == [("servers.echo.reqest", 3), ("servers.echo.request", 4)]


# Any text at all -----------------------------------------------------------------------------------------------


@given(st.text(st.sampled_from("servers: general{}[]\n-&*!|>'\"%@`#,?<=~${}A1.")), st.text())
def test_any_text_and_override_is_settings_or_a_configuration_error(text, override):
    with contextlib.suppress(ConfigurationError):
        YAMLConfigMapper({}).process_string(text, {"general.a": override})


@pytest.mark.parametrize("quote", ["'", '"'])
def test_a_placeholder_alone_in_quotes_is_a_number_where_no_string_is_allowed(quote):
    text = """
servers: {echo: {request: {uri: "tcp://*:0", concurrency: "${N}", timeout: "${T:-0.5}", options: {a: "${N}"}}}}
general: {build: "${N}"}
"""
    settings = YAMLConfigMapper({"N": "5"}).process_string(text.replace('"', quote))
    request = settings.socket_info("echo", "request")
    assert (request.concurrency, request.timeout) == (5, 0.5)
    assert request.options == {"a": "5"}
    assert settings.get("build") == "5"


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ('"5"', "'5'"),
        ('"${N}0"', "'50'"),
        ('"$${N}"', r"'\${N}'"),
        ('"${WORD}"', "'five'"),
        ('"${BAD}"', "'2024-99-99'"),
    ],
)
def test_other_quoted_strings_stay_strings_and_are_refused_where_none_is_allowed(written, found):
    text = f'servers: {{echo: {{request: {{uri: "tcp://*:0", concurrency: {written}}}}}}}'
    mapper = YAMLConfigMapper({"N": "5", "WORD": "five", "BAD": "2024-99-99"})
    with pytest.raises(ConfigurationError, match=rf"found {found} \(string\), expected integer >= 1"):
        mapper.process_string(text)


def test_an_empty_placeholder_alone_in_quotes_is_null_where_no_string_is_allowed():
    text = 'servers: {echo: {request: {uri: "tcp://*:0", concurrency: "${N:-}"}}}'
    assert YAMLConfigMapper({}).process_string(text).socket_info("echo", "request").concurrency is None
