"""`dploylib top`: what it shows, by which keys, and that it leaves the terminal as it was."""

import asyncio
import subprocess
import sys
import threading

import pytest

from dploylib.cli.quantities import bar_chart, data, duration, number, span
from dploylib.cli.top_screen import HELP, TopScreen
from dploylib.cli.watching import PROCESSES, SOCKETS, Watch, by
from dploylib.control import Health
from dploylib.statistics import Histogram, ProcessStatistics, ServerStatistics, SocketStatistics

pytestmark = pytest.mark.once("Textual runs on asyncio, in a process that nobody patches")

READY = Health(alive=True, ready=True, state="running")
SECONDS = 1000  # from one look to the next: longer than a test, which looks by itself


class Told:
    """A source: two workers, in which the sockets receive so many messages a second."""

    name = "parrot"

    def __init__(self, rates, health=READY, pids=(1, 2)):
        self.rates, self.said, self.pids, self.seconds = rates, health, pids, 0

    def statistics(self):
        self.seconds += 1
        return [
            ProcessStatistics(
                service="parrot",
                role="worker",
                pid=pid,
                instance=str(pid),
                version="1",
                state="running",
                started=0.0,
                taken=float(self.seconds),
                cpu_seconds=self.seconds * pid / 10,
                resident=pid * 2**20,
                servers={"echo": ServerStatistics(type="Echo", sockets=self.sockets())},
            )
            for pid in self.pids
        ]

    def sockets(self):
        times = Histogram()
        times.record(0.002)
        return {
            name: SocketStatistics(type="rep", received=rate * self.seconds, handled=rate * self.seconds, failed=1)
            if rate
            else SocketStatistics(type="rep", handler_time=times)
            for name, rate in self.rates.items()
        }

    def health(self):
        return self.said


def shown(app, table="sockets"):
    """The cells of a table as they are shown, by row."""
    found = app.query_one(f"#{table}")
    return [[str(cell).strip() for cell in found.get_row_at(index)] for index in range(found.row_count)]


def headings(app, table="sockets"):
    return [str(column.label).strip() for column in app.query_one(f"#{table}").ordered_columns]


def headline(app):
    return str(app.query_one("#headline").render())


def on_screen(source, test, size=(80, 24)):
    """Run a test, a coroutine that gets the screen and its pilot, when the first look is shown."""

    async def main():
        app = TopScreen(Watch(source), SECONDS)
        async with app.run_test(size=size) as pilot:
            await looked(app, pilot)
            await test(app, pilot)

    asyncio.run(main())


async def looked(app, pilot):
    await app.workers.wait_for_complete()
    await pilot.pause()


async def look(app, pilot):
    app._tick()
    await looked(app, pilot)


def test_it_shows_rates_by_socket_and_by_process():
    async def test(app, pilot):
        await look(app, pilot)
        first, second = shown(app)
        assert (first[:2], second[:2]) == (["echo.busy", "200"], ["echo.calm", "20"])
        assert headline(app) == "parrot: ready, 2 processes, 0 in flight"
        assert str(app.query_one("#received-now").render()) == "received 220/s"
        await pilot.press("tab")
        assert [row[:2] for row in shown(app, "processes")] == [["worker 1", "110"], ["worker 2", "110"]]
        titles = headings(app, "processes")
        assert [row[titles.index("cpu")] for row in shown(app, "processes")] == ["10%", "20%"]

    on_screen(Told({"calm": 10, "busy": 100}), test)


def test_it_fits_into_80_columns():
    assert sum(column.width for column in SOCKETS[: [one.title for one in SOCKETS].index("conn") + 1]) <= 80
    assert sum(column.width for column in PROCESSES[: [one.title for one in PROCESSES].index("up") + 1]) <= 80


def test_it_is_sorted_by_keys_and_by_clicks_on_headings():
    async def test(app, pilot):
        assert [row[0] for row in shown(app)] == ["echo.c", "echo.b", "echo.a"]
        assert headings(app)[1] == "▼msg/s"
        await pilot.press("r")
        assert [row[0] for row in shown(app)] == ["echo.a", "echo.b", "echo.c"]
        assert headings(app)[1] == "▲msg/s"
        await pilot.press("s")
        assert headings(app)[2] == "▼sent/s"
        await pilot.click("#sockets", offset=(3, 0))
        await pilot.pause()
        assert headings(app)[0] == "▲socket"
        assert [row[0] for row in shown(app)] == ["echo.a", "echo.b", "echo.c"]
        await pilot.press("r")
        assert [row[0] for row in shown(app)] == ["echo.c", "echo.b", "echo.a"]

    on_screen(Told({"a": 10, "b": 20, "c": 30}), test)


def test_the_cursor_stays_on_its_row_when_others_change_places():
    source = Told({"a": 10, "b": 20})

    async def test(app, pilot):
        table = app.query_one("#sockets")
        await pilot.press("down")
        assert shown(app)[table.cursor_row][0] == "echo.a"
        source.rates["a"] = 500
        await look(app, pilot)
        assert shown(app)[0][0] == "echo.a"
        assert shown(app)[table.cursor_row][0] == "echo.a"

    on_screen(source, test)


def test_a_pause_leaves_what_is_shown_as_it_is():
    source = Told({"a": 10})

    async def test(app, pilot):
        await pilot.press("p")
        assert headline(app).endswith("paused")
        seconds = source.seconds
        await look(app, pilot)
        assert source.seconds == seconds
        await pilot.press("p")
        await looked(app, pilot)
        assert source.seconds == seconds + 1
        assert not headline(app).endswith("paused")

    on_screen(source, test)


def test_help_explains_each_key_and_column_until_a_key_is_pressed():
    keys = {binding.key_display or binding.key for binding in TopScreen.BINDINGS}
    words = set(HELP.split())
    assert keys <= words
    assert {column.title for column in (*SOCKETS, *PROCESSES)} - words == {"socket", "type", "process", "state"} | {
        "mem",
        "up",
    }

    async def test(app, pilot):
        await pilot.press("question_mark")
        await pilot.pause()
        text = app.screen.query_one("Static")
        assert text.region.height == len(HELP.splitlines()) + 2
        assert app.screen.region.contains_region(text.region)
        await pilot.press("x", "x")
        await pilot.pause()
        assert app.screen.query("#headline")

    on_screen(Told({"a": 10}), test)


def test_all_of_it_is_on_a_screen_of_80_by_24():
    async def test(app, pilot):
        for part in ("#headline", "#received", "#errors", "#sockets", "Footer"):
            region = app.query_one(part).region
            assert region.area, part
            assert app.screen.region.contains_region(region), part
        assert app.query_one("#sockets").region.height > 10

    on_screen(Told({"a": 10}), test)


def test_it_says_why_a_service_is_not_ready_and_that_it_has_gone():
    source = Told({"a": 10}, Health(alive=True, ready=False, state="running", why=["[no] seed"]))

    async def test(app, pilot):
        assert headline(app).startswith("parrot: not ready: [no] seed, 2 processes")
        source.pids, source.said = (), Health(alive=False, ready=False, state="stopped")
        await look(app, pilot)
        assert headline(app) == "parrot: not ready: no process answers"
        assert shown(app) == []

    on_screen(source, test)


def test_keys_are_taken_while_a_process_is_silent():
    source = Told({"a": 10})
    answers = threading.Event()
    source.health = lambda: answers.wait() and READY

    async def main():
        app = TopScreen(Watch(source), SECONDS)
        async with app.run_test() as pilot:
            await pilot.press("tab")
            assert app._table.id == "processes"
            answers.set()
            await looked(app, pilot)
            assert headline(app).startswith("parrot: ready")

    asyncio.run(main())


def test_what_is_not_known_is_sorted_last():
    watch = Watch(Told({"a": 10, "idle": 0}))
    view = watch.look()
    p99 = next(column for column in SOCKETS if column.title == "p99")
    assert [p99.text(row) for row in by(view.sockets, p99)] == ["2.0ms", "-"]


def test_the_trend_has_what_came_in_at_each_look():
    source = Told({"a": 10})
    watch = Watch(source)
    assert [row.past for row in watch.look().sockets] == [()]  # the mean since the start is no point of it
    for _ in range(2):
        view = watch.look()
    assert [row.past for row in view.sockets] == [(20, 20)]


def test_quantities_have_five_characters_at_most():
    assert [number(value) for value in (0, 0.04, 0.5, 12, 9999, 12345, 4.5e6)] == [
        *("0", "0", "0.5", "12", "9999", "12.3k", "4.5M"),
    ]
    assert [data(value) for value in (0, 1023, 1024, 10**6, 5 * 10**9)] == ["0", "1023", "1.0K", "977K", "4.7G"]
    assert [duration(value) for value in (12e-6, 0.0012, 0.34, 2.5, 120)] == ["12µs", "1.2ms", "340ms", "2.50s", "120s"]
    assert [span(value) for value in (12, 2040, 18000, 600000)] == ["12s", "34m", "5h", "6d"]
    values = [10**exponent * digit for exponent in range(-6, 9) for digit in (1, 5, 9.95, 9.996)]
    assert max(len(number(value)) for value in values) <= 5
    assert max(len(data(value)) for value in values) <= 5
    assert max(len(duration(value)) for value in values if value < 1e4) <= 5


def test_bars_are_as_high_as_their_values():
    assert bar_chart([0, 1, 4, 8], 6) == "   ▁▄█"
    assert bar_chart([], 3) == "   "
    assert bar_chart([8, 1, 2], 2) == "▄█"


def test_without_textual_the_command_says_what_to_install(tmp_path, monkeypatch):
    script = """
import sys
import importlib.util
importlib.util.find_spec = lambda name: None
sys.stdout.isatty = lambda: True
from dploylib.cli import main, top
from dploylib.cli.services import Running
top.the_service = lambda *_: Running("parrot", "nowhere", [{"pid": 1}])
sys.exit(main(["top"]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stderr == "Error: the live view needs Textual: pip install 'dploylib[top]'; or use --once\n"
    assert done.returncode == 1
