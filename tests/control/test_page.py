"""The page of a service in a browser: Chromium without a screen, and a server in a process of its own."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

from tests.control.sources import SECRET, histogram

pytestmark = pytest.mark.once("a browser, and a server in an interpreter of its own")

ROOT = Path(__file__).parents[2]
PATIENCE = 30_000  # milliseconds
QUIET = [  # it is to talk to nobody but the page
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DESK, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser():
    """Chromium, with an empty profile."""
    chromium = shutil.which("chromium")
    if chromium is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=QUIET, chromium_sandbox=False)
        yield browser
        browser.close()


class Served:
    """The process that serves the page. It can be killed, and started again at the same port."""

    def __init__(self, port=0):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.control.page_process", str(port)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.url = self.process.stdout.readline().strip()
        self.port = int(self.url.rstrip("/").rpartition(":")[2])

    def is_not_ready(self, why):
        self.process.stdin.write(f"{why}\n")
        self.process.stdin.flush()

    def kill(self):
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def shared():
    """A service that nothing happens to."""
    served = Served()
    yield served
    served.kill()


@pytest.fixture
def served():
    """One that may be killed."""
    served = Served()
    yield served
    served.kill()


class Opened:
    """A page, with all that it asked for and complained about."""

    def __init__(self, browser, url, viewport=DESK, scheme="light"):
        self.page = browser.new_page(viewport=viewport, color_scheme=scheme)
        self.page.set_default_timeout(PATIENCE)
        self.complaints, self.requests = [], []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(url)

    def wait_for(self, condition):
        """Wait for an expression; playwright's own way is evaluated in the page, whose policy does not let it."""
        ends = time.monotonic() + PATIENCE / 1000
        while not self.page.evaluate(condition):
            assert time.monotonic() < ends, f"waited in vain: {condition}"
            self.page.wait_for_timeout(20)

    def wait_for_rates(self):
        self.wait_for("answers.length > 1")

    def sockets(self):
        return self.page.locator("#socket-table tbody th").all_text_contents()

    def texts(self, column):
        """The texts of a column of the table of sockets, from the top."""
        titles = self.page.locator("#socket-table thead th").all_text_contents()
        return self.page.locator(f"#socket-table tbody tr > :nth-child({titles.index(column) + 1})").all_text_contents()


@pytest.fixture
def open_page(browser):
    opened = []

    def open_page(*arguments, **options):
        opened.append(Opened(browser, *arguments, **options))
        return opened[-1]

    yield open_page
    for one in opened:
        one.page.close()


def violations(page):
    """What axe finds, as texts."""
    found = Axe().run(page).response["violations"]
    return [f"{one['id']}: {[node['html'] for node in one['nodes']]}" for one in found]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
def test_the_page_complains_of_nothing_asks_nobody_else_and_is_accessible(open_page, shared, viewport, scheme):
    opened = open_page(shared.url, viewport, scheme)
    opened.wait_for_rates()
    assert opened.complaints == []
    assert set(opened.requests) <= {shared.url, f"{shared.url}api/statistics"} | {
        url for url in opened.requests if url.startswith("data:")
    }
    assert violations(opened.page) == []
    assert opened.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert opened.complaints == []


def test_both_colour_schemes_differ(open_page, shared):
    grounds = {
        open_page(shared.url, scheme=scheme).page.evaluate("getComputedStyle(document.body).backgroundColor")
        for scheme in ("light", "dark")
    }
    assert len(grounds) == 2


def test_it_shows_the_service_its_sockets_and_its_processes(open_page, shared):
    opened = open_page(shared.url)
    opened.wait_for_rates()
    assert opened.page.title() == "shop – dploylib"
    assert opened.page.locator("#state").text_content() == "running"
    assert "up 1 h 0 min · 3 processes" in opened.page.locator("#summary").text_content()
    assert [name.partition("rep")[0] for name in opened.sockets()][2] == "orders.request"
    assert opened.page.locator("#process-table tbody th").all_text_contents() == [
        "frontpid 4710",
        "workerpid 4711",
        "workerpid 4712",
    ]
    assert opened.texts("In flight") == ["3 / 100"] * 3
    assert opened.texts("Connections") == ["28"] * 3
    assert opened.texts("Bytes out/s")[1] == "0 B"


def test_names_are_text_and_texts_of_errors_are_not_there(open_page, served):
    opened = open_page(served.url)
    opened.wait_for("document.body.textContent.includes('ZeroDivisionError')")
    assert opened.sockets()[0].startswith("<b>night</b>.reports")
    assert SECRET not in opened.page.content()


def test_charts_go_on(open_page, shared):
    opened = open_page(shared.url)
    opened.wait_for_rates()
    lines = "[...document.querySelectorAll('path')].map(path => path.getAttribute('d'))"
    before = opened.page.evaluate(lines)
    assert len(before) == 5
    assert all(line.startswith("M") for line in before)
    opened.wait_for(f"{lines}.every((line, index) => line !== {before}[index])")


def test_charts_say_what_they_show(open_page, shared):
    opened = open_page(shared.url)
    opened.wait_for_rates()
    of_all = opened.page.locator("#times svg").get_attribute("aria-label")
    assert of_all.startswith("Time of handlers, p50 now ")
    assert "–" not in of_all
    opened.page.select_option("select", "orders.jobs")
    of_jobs = opened.page.locator("#times svg").get_attribute("aria-label")
    assert "ms" in of_jobs.partition(",")[2]
    assert of_jobs != of_all
    assert opened.page.locator("#rate svg").get_attribute("aria-label").endswith("out now 0, at most 0")


def test_tables_are_sorted_by_click_and_by_key(open_page, shared):
    opened = open_page(shared.url)
    opened.wait_for_rates()
    by_name = opened.sockets()
    assert by_name == sorted(by_name, key=str.lower)
    received = opened.page.get_by_role("button", name="In/s", exact=True)
    received.click()
    assert [name.partition(".")[2][:4] for name in opened.sockets()] == ["requ", "jobs", "repo"]
    heading = opened.page.locator("#socket-table th[aria-sort]")
    assert heading.get_attribute("aria-sort") == "descending"
    assert heading.text_content() == "In/s"
    received.focus()
    opened.page.keyboard.press("Enter")
    assert [name.partition(".")[2][:4] for name in opened.sockets()] == ["repo", "jobs", "requ"]
    opened.page.evaluate("window.before = document.querySelector('#socket-table tbody tr')")
    opened.wait_for("document.querySelector('#socket-table tbody tr') !== before")  # the next answer keeps the order
    assert [name.partition(".")[2][:4] for name in opened.sockets()] == ["repo", "jobs", "requ"]


def test_it_says_why_the_service_is_not_ready(open_page, served):
    opened = open_page(served.url)
    opened.wait_for_rates()
    served.is_not_ready("two handlers are still busy")
    opened.page.get_by_text("Not ready: two handlers are still busy").wait_for()
    assert opened.page.locator("#state").text_content() == "stopping"
    assert opened.page.title().startswith("✗")
    assert violations(opened.page) == []
    served.is_not_ready("")
    opened.wait_for("document.querySelector('#reasons').textContent === ''")
    assert opened.complaints == []


def test_it_says_when_the_service_is_gone_and_goes_on_when_it_is_back(open_page, served):
    opened = open_page(served.url)
    opened.wait_for_rates()
    served.kill()
    alert = opened.page.get_by_role("alert")
    alert.get_by_text("The service does not answer since").wait_for()
    assert "no connection" in alert.text_content()
    assert opened.page.locator("#state").text_content() == "no answer"
    assert violations(opened.page) == []
    opened.page.evaluate("window.told = answers.at(-1).taken")
    again = Served(served.port)
    try:
        opened.wait_for("answers.at(-1).taken > told")
        assert opened.page.locator("#silence").text_content() == ""
        assert opened.page.locator("#state").text_content() == "running"
        assert not any("-" in text for text in opened.texts("In/s"))  # counts began anew: no rate is below zero
    finally:
        again.kill()


@pytest.mark.parametrize(
    "values", [(), (0.001,), (0.0001, 0.002, 0.03, 0.4, 5.0, 60.0), tuple(x / 997 for x in range(1, 500))]
)
def test_quantiles_are_those_of_the_library(calculator, values):
    made = histogram(*values)
    earlier = histogram(*values[::2])
    told = [{"counts": {str(key): count for key, count in one.counts.items()}} for one in (made, earlier)]
    since = calculator.evaluate(
        "([now, before]) => [0.5, 0.99].map(q => quantile(grownHistogram(now, before), q))", told
    )
    expected = (made - earlier).quantiles([0.5, 0.99])
    assert [one or 0.0 for one in since] == pytest.approx(expected, rel=1e-12)


def test_counts_that_have_begun_anew_are_taken_as_they_are(calculator):
    assert calculator.evaluate("[grown(7, 5), grown(7, 7), grown(3, 5)]") == [2, 0, 3]
    before, now = ({"counts": {"16000": 5, "16001": 2}}, {"counts": {"16000": 6}})
    assert calculator.evaluate("([n, b]) => [...grownHistogram(n, b)]", [now, before]) == [[16000, 6]]


@pytest.mark.parametrize(
    ("call", "text"),
    [
        ("seconds(0.000085)", "85 µs"),
        ("seconds(0.0009996)", "1 ms"),
        ("seconds(0.25)", "250 ms"),
        ("seconds(12.345)", "12.3 s"),
        ("seconds(null)", "–"),
        ("bytes(0)", "0 B"),
        ("bytes(1536)", "1.5 KiB"),
        ("bytes(3 * 2 ** 30)", "3 GiB"),
        ("number(0.2)", "0.2"),
        ("number(12345)", "12.3K"),
        ("duration(59.9)", "59 s"),
        ("duration(3660)", "1 h 1 min"),
        ("duration(90000)", "1 d 1 h"),
    ],
)
def test_how_figures_are_written(calculator, call, text):
    assert calculator.evaluate(call) == text


@pytest.fixture(scope="module")
def calculator(browser, shared):
    """A page, for what it computes."""
    page = browser.new_page()
    page.goto(shared.url)
    yield page
    page.close()
