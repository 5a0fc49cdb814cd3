"""Tables for the terminal, and the same as data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from benchmarks.runner import CaseResult, Settings
from benchmarks.targets import TARGETS, Target


@dataclass(frozen=True)
class Spread:
    """The figures of some rounds: their median, the lowest and the highest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarize at least one value."""
        return cls(median(values), min(values), max(values))

    def __str__(self) -> str:
        """The median, and half of what lies between the lowest and the highest, in percent of it if that says much."""
        if self.low <= 0:
            return f"{short(self.median)} ({short(self.low)} to {short(self.high)})" if self.high else "0"
        return f"{short(self.median)} ±{50 * (self.high - self.low) / self.median:2.0f}%"


@dataclass(frozen=True)
class Column:
    """A column of a table: its title, the figure in it, and what that is divided by."""

    title: str
    figure: str
    divisor: float = 1


COST = (
    Column("messages/s", "throughput"),
    Column("CPU µs", "cpu_us"),
    Column("main µs", "main_cpu_us"),
)
GENERATOR = (Column("gen. µs", "generator_cpu_us"),)
LATENCY = (Column("p50 µs", "p50_us"), Column("p99 µs", "p99_us"), Column("p99.9 µs", "p999_us"))
SERVER = (Column("server µs", "server_cpu_us"),)
RSS = (Column("RSS MiB", "rss_kib", 1024),)

COLUMNS = {
    "echo": (*COST, *LATENCY, *RSS, *GENERATOR),
    "secured": (*COST, *LATENCY, *RSS, *GENERATOR),
    "served": (COST[0], COST[1], *LATENCY, *GENERATOR),
    "client": (*COST, *LATENCY, *SERVER),
    "queue": (*COST, *LATENCY, *RSS, *GENERATOR),
    "pull": (*COST, *RSS, *GENERATOR),
    "pub": (*COST, *RSS, *GENERATOR),
    "backlog": (*COST, Column("longest gap ms", "longest_gap_ms"), *RSS),
    "waiting": (
        Column("s until all are answered", "seconds"),
        Column("KiB each", "handler_kib"),
        Column("CPU µs", "cpu_us"),
        *RSS,
    ),
    "idle": (Column("CPU µs a second", "idle_us_per_s"), *RSS),
    "import": (Column("ms", "import_ms"),),
    "first-reply": (Column("ms", "first_reply_ms"),),
    "memory": (Column("KiB each", "each_kib"), Column("RSS MiB of one", "rss_kib", 1024)),
}
LEGEND = """\
Every figure is the median of all rounds, ± half of what lies between the lowest and the highest. CPU is the server's
for a message: of all its threads, or of the main thread alone; gen. is the load generator's. The last column is how
many CPUs the generator, the server and everything else on the machine kept busy. A ! says that it was more the
generator than the server, which then may have had to wait for it. In tables of clients, CPU is the client's for a call;
there, a ! says that the server was busier than the client."""
# Kinds in which what is measured may have to wait for somebody else, and who these are, the measured one last.
LOADED = dict.fromkeys(("echo", "secured", "served", "queue", "pull", "pub"), ("generator", "server"))
LOADED["client"] = ("server", "client")


def short(value: float) -> str:
    """Return a number with three digits that say something."""
    if abs(value) >= 999.5e3:
        return f"{value / 1e6:.3g}M"
    if abs(value) >= 9999.5:
        return f"{value / 1e3:.3g}k" if abs(value) < 99.95e3 else f"{value / 1e3:.0f}k"
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:.0f}"


def case_table(result: CaseResult) -> str:
    """Return the table of a case, with what was skipped or failed."""
    columns = COLUMNS[result.case.kind]
    sides = LOADED.get(result.case.kind)
    titles = ["", *(column.title for column in columns)]
    if sides:
        titles.append(f"{' / '.join(sides).replace('generator', 'gen.')} / others busy")
    rows = [titles]
    for contender, rounds in result.figures.items():
        row = [contender, *(str(spread(rounds, column.figure, column.divisor)) for column in columns)]
        rows.append([*row, busy(rounds, sides)] if sides else row)
    lines = [f"\n{result.case.name}: {result.case.title}", *aligned(rows)]
    lines += [f"  {name}: skipped: {why}" for name, why in result.skipped.items()]
    lines += [f"  {name}: FAILED: {why}" for name, why in result.failed.items()]
    return "\n".join(lines)


def spread(rounds: Sequence[dict[str, float]], figure: str, divisor: float = 1) -> Spread:
    """Summarize a figure of all rounds."""
    return Spread.of([one[figure] / divisor for one in rounds])


def busy(rounds: Sequence[dict[str, float]], sides: Sequence[str] = ("generator", "server")) -> str:
    """Return how many CPUs both sides and others used, and a mark if the first used more than the measured one."""
    first, measured, others = (median(one[f"{who}_busy"] for one in rounds) for who in (*sides, "others"))
    return f"{first:.2f} / {measured:.2f} / {others:.2f}{' !' if first > measured else ''}"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the rows as lines, with the first column to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  " + "  ".join(cell.ljust(width) if not at else cell.rjust(width) for at, (cell, width) in enumerate(row))
        for row in ([*zip(cells, widths, strict=True)] for cells in rows)
    ]


@dataclass(frozen=True)
class Verdict:
    """What came out for a target; without values if it was not measured."""

    target: Target
    value: Spread | None

    @property
    def word(self) -> str:
        """The verdict in a word or two."""
        if self.value is None:
            return "not measured"
        return "ok" if self.target.holds(self.value.median) else "MISSED"


def verdicts(results: Iterable[CaseResult]) -> list[Verdict]:
    """Compare the results with their targets. A ratio is taken within each round, and the median of these counts."""
    by_name = {result.case.name: result for result in results}
    return [Verdict(target, measured(target, by_name[target.case])) for target in TARGETS if target.case in by_name]


def measured(target: Target, result: CaseResult) -> Spread | None:
    """Return the values of a target in all rounds, or None if there are none."""
    above = by_round(result, target.contender, target.figure)
    if target.than:
        below = by_round(result, target.than, target.figure)
        above = {number: above[number] / below[number] for number in above.keys() & below.keys()}
    return Spread.of(list(above.values())) if above else None


def by_round(result: CaseResult, contender: str, figure: str) -> dict[float, float]:
    """Return a figure by the number of the round."""
    return {one["round"]: one[figure] for one in result.figures.get(contender, [])}


def ratio_table(found: Sequence[Verdict]) -> str:
    """Return the table of the targets, or nothing if there are none."""
    if not found:
        return ""
    rows = [["what must hold", "measured", "bound", ""]]
    for one in found:
        who = f"{one.target.contender} / {one.target.than}" if one.target.than else one.target.contender
        value = "" if one.value is None else f"{one.value.median:.2f} ({one.value.low:.2f}-{one.value.high:.2f})"
        rows.append([f"{one.target.title}: {who}", value, one.target.bound, one.word])
    return "\n".join(["", *aligned(rows)])


def as_data(results: Sequence[CaseResult], found: Sequence[Verdict], settings: Settings) -> dict[str, Any]:
    """Return everything that was measured, for a file."""
    return {
        "settings": asdict(settings),
        "cases": [case_data(result) for result in results],
        "targets": [
            {
                **asdict(one.target),
                "verdict": one.word,
                "measured": None if one.value is None else asdict(one.value),
            }
            for one in found
        ],
    }


def case_data(result: CaseResult) -> dict[str, Any]:
    """Return what came out of one case."""
    summary = {
        contender: {name: asdict(spread(rounds, name)) for name in rounds[0] if name != "round"}
        for contender, rounds in result.figures.items()
    }
    return {
        "name": result.case.name,
        "title": result.case.title,
        "kind": result.case.kind,
        "summary": summary,
        "rounds": result.figures,
        "skipped": result.skipped,
        "failed": result.failed,
    }
