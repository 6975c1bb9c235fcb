"""The latency of an order as a waterfall: a bar for each event, stage and provider call, to one time scale."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rich.markup import escape
from rich.table import Table

from app.cli.output import print_table
from app.contracts.orders import TimelineEntry
from app.contracts.payments import Attempt

WIDTH = 24


@dataclass(frozen=True)
class Bar:
    """A time span from `start` to `end`, in seconds since 1970."""

    start: float
    end: float
    actor: str
    label: str
    note: str = ""


def timeline_bars(entries: Sequence[TimelineEntry]) -> Iterator[Bar]:
    """A bar for each entry of the timeline, from the entry before it."""
    for before, entry in zip((entries[0], *entries), entries, strict=False):
        statuses = f"{entry.to_status}, {entry.payment_status}"
        yield Bar(_seconds(before.at), _seconds(entry.at), entry.actor, f"[bold]{escape(entry.type)}[/]", statuses)


def stage_bars(lines: Sequence[dict[str, Any]]) -> Iterator[Bar]:
    """A bar for each stage in the live feed."""
    for line in lines:
        yield Bar(line["at"] - line["took_ms"] / 1000, line["at"], line["module"], line["stage"])


def attempt_bars(attempts: Sequence[Attempt]) -> Iterator[Bar]:
    """A bar for each call to the provider."""
    for attempt in attempts:
        end = _seconds(attempt.at)
        answer = f"{attempt.answer}, {attempt.reason}" if attempt.reason else attempt.answer
        yield Bar(end - attempt.took_us / 1e6, end, "provider", f"{attempt.call}, attempt {attempt.attempt}", answer)


def draw(bars: Sequence[Bar]) -> None:
    """Print a line for each bar, ordered by its end."""
    first, last = min(bar.start for bar in bars), max(bar.end for bar in bars)
    scale = WIDTH / ((last - first) or 1.0)
    table = Table(box=None, title="Latency, times in UTC", title_justify="left", pad_edge=False)
    for column in ("at", "who", "what", "", "ms", ""):
        table.add_column(column, justify="right" if column == "ms" else "left", no_wrap=True)
    for bar in sorted(bars, key=lambda bar: (bar.end, bar.start)):
        indent = " " * int((bar.start - first) * scale)
        length = max(1, round((bar.end - bar.start) * scale))
        at = datetime.fromtimestamp(bar.end, UTC)
        table.add_row(
            f"{at:%H:%M:%S}.{at.microsecond // 1000:03d}",
            bar.actor,
            bar.label,
            f"{indent}[cyan]{'█' * length}[/]",
            f"{(bar.end - bar.start) * 1000:.1f}",
            escape(bar.note),
        )
    print_table(table)


def _seconds(at: str) -> float:
    return datetime.fromisoformat(at).timestamp()
