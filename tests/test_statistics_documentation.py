"""docs/statistics.md lists what there is: all that is counted, and all that a control server is asked."""

import inspect
from pathlib import Path

import msgspec
import pytest

from dploylib.config import MonitoringSettings
from dploylib.control import protocol
from dploylib.control.server import _VERBS
from dploylib.statistics import (
    Connections,
    Histogram,
    LastError,
    ProcessStatistics,
    ServerStatistics,
    SocketStatistics,
)
from tests.test_serving_documentation import spans, tables

pytestmark = pytest.mark.once("pages and source code: nothing depends on who waits how")

DOCS = Path(__file__).parent.parent / "docs"
PAGE = (DOCS / "statistics.md").read_text(encoding="utf-8")
KINDS = {
    "of a socket": SocketStatistics,
    "of connections": Connections,
    "of a server": ServerStatistics,
    "of a process": ProcessStatistics,
    "of an error": LastError,
    "of a histogram": Histogram,
}


def known(kind):
    """The fields of a type, and what is found out from them."""
    properties = [name for name, value in vars(kind).items() if isinstance(value, property)]
    return [*kind.__struct_fields__, *properties]


@pytest.mark.parametrize("heading", KINDS)
def test_all_that_is_counted_is_in_its_table_in_order(heading):
    assert [spans(row[0])[0] for row in tables(PAGE, heading)] == known(KINDS[heading])


def test_each_verb_is_in_the_table_with_its_arguments_and_in_the_docstring():
    rows = {spans(row[0])[0]: spans(row[1]) for row in tables(PAGE, "verb")}
    assert list(rows) == list(_VERBS)
    for verb, (kind, _) in _VERBS.items():
        given = () if kind is None else [name for name in kind.__struct_fields__ if name != "before"]
        assert rows[verb] == [*given], verb
        assert f"\n    {verb} " in inspect.getdoc(protocol).replace("\n", "\n    ").replace("        ", "    ")


def test_what_is_told_by_http_of_no_socket_is_said():
    assert "not told by HTTP" in PAGE


def test_each_key_of_monitoring_is_in_its_table_with_its_default():
    page = (DOCS / "configuration.md").read_text(encoding="utf-8")
    part = page[page.index("## Keys of monitoring") :].partition("\n## ")[0]
    rows = {spans(row[0])[0]: row[2] for row in tables(part, "key")}
    fields = {field.name: field.default for field in msgspec.structs.fields(MonitoringSettings)}
    assert list(rows) == list(fields)
    for name, default in fields.items():
        if default is not None:
            assert rows[name] == str(default).lower().removesuffix(".0"), name
