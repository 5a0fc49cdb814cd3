"""What is told of the metrics elsewhere: in the documentation, and in the dashboard of Grafana."""

import itertools
import json
import re
from pathlib import Path

import pytest

from dploylib.control.metrics import ServiceCollector
from tests.control.sources import FixedSource, a_process, everything

pytestmark = pytest.mark.once("files, and nothing else")

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "metrics.md").read_text()
DASHBOARD = json.loads((ROOT / "examples" / "grafana" / "dashboard.json").read_text())
EXPRESSIONS = {
    f"{panel['title']} {target['refId']}": target["expr"]
    for panel in DASHBOARD["panels"]
    for target in panel["targets"]
}
EXPRESSIONS |= dict(re.findall(r"^\| (it is .*|it dies .*|callers .*|something .*) \| `(.*?)`", PAGE, re.M))
VARIABLES = DASHBOARD["templating"]["list"]
OF_PROMETHEUS = {"job", "instance"}  # it adds these itself


@pytest.fixture(scope="module")
def metrics():
    """The families by their name with its suffix: type and labels."""
    source = FixedSource(a_process(sockets={"request": everything()}))
    suffixes = {"counter": "_total", "info": "_info"}
    return {
        family.name + suffixes.get(family.type, ""): (
            "gauge" if family.type == "info" else family.type,
            {label for sample in family.samples for label in sample.labels} - {"le"},
        )
        for family in ServiceCollector(source).collect()
    }


@pytest.fixture(scope="module")
def series(metrics):
    """The labels of each series by its name, as expressions have it."""
    found = {name: labels for name, (_, labels) in metrics.items()}
    for name, (kind, labels) in metrics.items():
        if kind == "histogram":
            found |= {f"{name}_bucket": labels | {"le"}, f"{name}_sum": labels, f"{name}_count": labels}
    return found


def test_the_table_of_the_documentation_has_each_metric_with_its_type_and_labels(metrics):
    rows = re.findall(r"^\| `(dploylib_\w+)` \| (\w+) \| ([^|]*)\| ", PAGE, re.M)
    assert {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows} == metrics
    assert len(rows) == len(metrics)


@pytest.mark.parametrize("expression", EXPRESSIONS.values(), ids=EXPRESSIONS)
def test_an_expression_has_metrics_and_labels_that_there_are(series, expression):
    names = re.findall(r"\bdploylib_\w+", expression)
    assert names
    used = {label for part in re.findall(r"by \(([^)]*)\)", expression) for label in part.split(", ")}
    for name in names:
        assert name in series
        assert used <= series[name] | OF_PROMETHEUS
    for name, selector in re.findall(r"(\bdploylib_\w+)\{([^}]*)\}", expression):
        assert set(re.findall(r"(\w+)=~", selector)) <= series[name] | OF_PROMETHEUS


def test_counters_are_asked_for_their_rates_only(metrics):
    for expression in EXPRESSIONS.values():
        for name, (kind, _) in metrics.items():
            if kind == "counter":
                for found in re.finditer(rf"\b{name}\b", expression):
                    assert re.search(r"(rate|increase)\($", expression[: found.start()]), expression


def test_variables_ask_for_metrics_that_there_are(series):
    asked = [one["query"]["query"] for one in VARIABLES if one["type"] == "query"]
    assert {name for query in asked for name in re.findall(r"dploylib_\w+", query)} <= set(series)
    known = {one["name"] for one in VARIABLES} | {"__rate_interval", "__range"}
    texts = [*EXPRESSIONS.values(), *asked]
    assert {name for text in texts for name in re.findall(r"\$\{?(\w+)", text)} <= known


def test_panels_are_of_the_data_source_that_is_chosen_and_overlap_nowhere():
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({panel["title"] for panel in panels}) == len(panels)
    for part in [*panels, *(target for panel in panels for target in panel["targets"])]:
        assert part["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    for one, other in itertools.combinations([panel["gridPos"] for panel in panels], 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in panels)


def test_most_metrics_are_on_the_dashboard(metrics):
    on_it = {name for text in EXPRESSIONS.values() for name in re.findall(r"dploylib_\w+?(?=_bucket|\b)", text)}
    left_out = {
        "dploylib_build_info",
        "dploylib_connections_closed_total",
        "dploylib_connections_opened_total",
        "dploylib_last_error_timestamp_seconds",
        "dploylib_messages_handled_total",
        "dploylib_messages_replied_total",
        "dploylib_process_start_time_seconds",
        "dploylib_server_state",
    }
    assert set(metrics) - on_it == left_out
