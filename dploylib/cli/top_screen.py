"""The screen of `dploylib top`, made with Textual."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar, Literal

from rich.text import Text
from textual import work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import DataTable, Footer, Label, Sparkline, Static, TabbedContent, TabPane

from .quantities import duration, number
from .watching import PROCESSES, SOCKETS, Column, Row, View, Watch, by

__all__ = ["HELP", "TopScreen"]

_REMEMBERED = 120  # looks, for the charts
_LONGEST_NAME = 30
HELP = """\
tab     sockets, or processes         p  pause, or go on
s       sort by the next column; or   q  quit: the service goes on
        click on the heading of one   ?  this help; any key leaves it
r       sort the other way round

msg/s   messages received a second, since the look before
sent/s  messages sent a second
trend   what came in, look by look, the last one at the right
p50 p90 p99  handlers took no longer than that, in 50, 90, 99 of 100
busy    messages that are received and not done with
err/s   messages a second that were not handled as they should be
in/s out/s   bytes of the bodies received and sent a second
conn    connections of peers          wait  p99 of the time before
cpu     share of one processor              handlers began
hub     p99 of the delay of greenlets"""
"""What the help says."""


class _Table(DataTable[Text]):
    """Rows in columns, sorted by one of these."""

    def __init__(self, columns: Sequence[Column], id: str) -> None:
        super().__init__(id=id, cell_padding=0, cursor_type="row", zebra_stripes=True)
        self._shown = columns
        self._rows: Sequence[Row] = ()
        self._sorted_by = 1  # what comes in
        self._reverse = False

    def show(self, rows: Sequence[Row]) -> None:
        """Show these rows. The cursor stays on its row, and what is seen where it is."""
        self._rows = rows
        rows = by(rows, self._shown[self._sorted_by], self._reverse)
        at = self.coordinate_to_cell_key(self.cursor_coordinate).row_key.value if self.row_count else None
        seen = self.scroll_offset
        self.clear(columns=True)
        for index, column in enumerate(self._shown):
            width = column.width
            if not index:
                width = max([width, *(min(len(column.text(row)), _LONGEST_NAME) for row in rows)])
            self.add_column(_cell(self._title(index), column, width), width=width)
        for row in rows:
            cells = [_cell(column.text(row), column, column.width) for column in self._shown]
            self.add_row(*cells, key=row.key)
        places = [index for index, row in enumerate(rows) if row.key == at]
        self.move_cursor(row=places[0] if places else 0, scroll=False)
        self.scroll_to(seen.x, seen.y, animate=False, force=True)

    def _title(self, index: int) -> str:
        title = self._shown[index].title
        if index != self._sorted_by:
            return title
        return f"{'▲' if self._reverse is self._shown[index].is_number else '▼'}{title}"

    def sort_by(self, index: int) -> None:
        """Sort by this column, counted around; by the same one, the other way round."""
        index %= len(self._shown)
        self._reverse = not self._reverse if index == self._sorted_by else False
        self._sorted_by = index
        self.show(self._rows)

    def sort_by_next(self) -> None:
        """Sort by the column after that by which it is sorted."""
        self.sort_by(self._sorted_by + 1)

    def turn(self) -> None:
        """Sort the other way round."""
        self.sort_by(self._sorted_by)


class _Help(ModalScreen[None]):
    """Explains the keys and the columns, until a key is pressed."""

    CSS = """
    _Help { align: center middle; }
    _Help Static { width: auto; max-width: 100%; height: auto; max-height: 100%; padding: 0 1; border: round $accent; }
    """

    def compose(self) -> ComposeResult:
        """The text."""
        yield Static(HELP, markup=False)

    def on_key(self) -> None:
        """Go back, whatever key it is."""
        if self.is_current:  # else another key has done so already
            self.dismiss()


class TopScreen(App[None]):
    """Looks at a service every `interval` seconds, and shows what happens there."""

    TITLE = "dploylib top"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    Screen { overflow: hidden; }
    TabbedContent { height: 1fr; }
    #headline { height: 1; text-style: bold; padding: 0 1; }
    #charts { height: 3; }
    #charts Vertical { padding: 0 1; }
    #charts Sparkline { height: 2; }
    #errors .sparkline--max-color { color: $error; }
    #errors .sparkline--min-color { color: $error; }
    ContentSwitcher { height: 1fr; }
    TabPane { height: 1fr; padding: 0; }
    DataTable { height: 1fr; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "Quit"),
        Binding("tab", "other_table", "Sockets/processes", priority=True),
        Binding("s", "sort_by_next", "Sort"),
        Binding("r", "turn", "Reverse"),
        Binding("p", "pause", "Pause"),
        Binding("question_mark", "help", "Help", key_display="?"),
    ]

    def __init__(self, watch: Watch, interval: float) -> None:
        super().__init__()
        self._watch = watch
        self._interval = interval
        self._view: View | None = None
        self._paused = False
        self._looking = False
        self._looker = ThreadPoolExecutor(1, "look")
        self._received: deque[float] = deque(maxlen=_REMEMBERED)
        self._p99: deque[float] = deque(maxlen=_REMEMBERED)
        self._errors: deque[float] = deque(maxlen=_REMEMBERED)

    def compose(self) -> ComposeResult:
        """What the screen consists of."""
        yield Static(f"{self._watch.source.name}: ...", id="headline", markup=False)
        with Horizontal(id="charts"):
            for name in ("received", "p99", "errors"):
                with Vertical():
                    yield Label("", id=f"{name}-now")
                    yield Sparkline([], id=name)
        with TabbedContent():
            with TabPane("Sockets", id="of-sockets"):
                yield _Table(SOCKETS, id="sockets")
            with TabPane("Processes", id="of-processes"):
                yield _Table(PROCESSES, id="processes")
        yield Footer()

    def on_mount(self) -> None:
        """Begin to look."""
        self.query_one("#sockets").focus()
        self._tick()
        self.set_interval(self._interval, self._tick)

    def _tick(self) -> None:
        if not self._looking and not self._paused:
            self._looking = True
            self._look()

    @work
    async def _look(self) -> None:
        """In a thread, since it may wait for processes that are silent; in the same one, for what a source keeps."""
        try:
            view = await asyncio.get_running_loop().run_in_executor(self._looker, self._watch.look)
        finally:
            self._looking = False
        self._show(view)

    def _show(self, view: View) -> None:
        if self._paused:
            return
        first, self._view = self._view is None, view
        if not first:  # that is the mean since the start
            self._received.append(view.total.received)
            self._p99.append(view.p99)
            self._errors.append(view.total.errors)
        self._show_headline()
        now = {
            "received": f"received {number(view.total.received)}/s",
            "p99": f"p99 {duration(view.p99)}",
            "errors": f"errors {number(view.total.errors)}/s",
        }
        for name, values in (("received", self._received), ("p99", self._p99), ("errors", self._errors)):
            self.query_one(f"#{name}-now", Label).update(now[name])
            self.query_one(f"#{name}", Sparkline).data = [0.0, *values]  # drawn from 0 on
        self.query_one("#sockets", _Table).show(view.sockets)
        self.query_one("#processes", _Table).show(view.processes)

    def _show_headline(self) -> None:
        headline = Text(f"{self._watch.source.name}: ")
        if self._view is not None:
            health, processes = self._view.health, len(self._view.processes)
            ready = health.ready and bool(processes)
            why = "; ".join(health.why) or (health.state if processes else "no process answers")
            headline.append("ready" if ready else f"not ready: {why}", style="green" if ready else "red")
            if processes:
                headline.append(f", {processes} process{'' if processes == 1 else 'es'}")
                headline.append(f", {number(self._view.total.in_flight)} in flight")
        if self._paused:
            headline.append("  paused", style="yellow")
        self.query_one("#headline", Static).update(headline)

    @property
    def _table(self) -> _Table:
        """The table that is seen."""
        return self.query_one("#sockets" if self._pane == "of-sockets" else "#processes", _Table)

    @property
    def _pane(self) -> str:
        return self.query_one(TabbedContent).active

    def on_data_table_header_selected(self, event: DataTable.HeaderSelected) -> None:
        """Sort by the column whose heading was clicked."""
        self._table.sort_by(event.column_index)

    def action_other_table(self) -> None:
        """Show the other table."""
        self.query_one(TabbedContent).active = "of-processes" if self._pane == "of-sockets" else "of-sockets"
        self._table.focus()

    def action_sort_by_next(self) -> None:
        """Sort by the next column."""
        self._table.sort_by_next()

    def action_turn(self) -> None:
        """Sort the other way round."""
        self._table.turn()

    def action_pause(self) -> None:
        """Let what is shown stay as it is, or go on."""
        self._paused = not self._paused
        self._show_headline()
        self._tick()

    def action_help(self) -> None:
        """Explain the keys and the columns."""
        self.push_screen(_Help())


def _cell(text: str, column: Column, width: int) -> Text:
    justify: Literal["left", "right"] = "right" if column.is_number else "left"
    # A column begins where the one before it ends: what stands at the left keeps away from it.
    shown = Text(text if column.is_number or column.title in ("socket", "process") else f" {text}", justify=justify)
    if column.title == "err/s" and text not in ("0", column.title):
        shown.stylize("red")
    shown.truncate(width, overflow="ellipsis")
    return shown
