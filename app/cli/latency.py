"""An order's way as a waterfall: each bar is something that took its time, drawn to the scale of the whole."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rich.markup import escape
from rich.table import Table

from app.cli.output import wide
from app.contracts.orders import TimelineEntry
from app.contracts.payments import Attempt

WIDTH = 24


@dataclass(frozen=True)
class Bar:
    """Something that took from `begins` to `ends`, in seconds since 1970."""

    begins: float
    ends: float
    who: str
    what: str
    more: str = ""


def of_events(entries: Sequence[TimelineEntry]) -> Iterator[Bar]:
    """A bar for each step of the timeline, from the one before it."""
    for before, entry in zip((entries[0], *entries), entries, strict=False):
        to = f"{entry.to_status}, {entry.payment_status}"
        yield Bar(_seconds(before.at), _seconds(entry.at), entry.actor, f"[bold]{escape(entry.type)}[/]", to)


def of_stages(stages: Sequence[dict[str, Any]]) -> Iterator[Bar]:
    """A bar for each line of the live feed."""
    for line in stages:
        yield Bar(line["at"] - line["took_ms"] / 1000, line["at"], line["module"], line["stage"])


def of_attempts(attempts: Sequence[Attempt]) -> Iterator[Bar]:
    """A bar for each call to the provider."""
    for one in attempts:
        ends = _seconds(one.at)
        answer = f"{one.answer}, {one.reason}" if one.reason else one.answer
        yield Bar(ends - one.took_us / 1e6, ends, "provider", f"{one.call}, attempt {one.attempt}", answer)


def draw(bars: Sequence[Bar]) -> None:
    """A line for each, by its end, drawn to the scale of the whole way."""
    first, last = min(bar.begins for bar in bars), max(bar.ends for bar in bars)
    scale = WIDTH / ((last - first) or 1.0)
    shown = Table(box=None, title="Its way", title_justify="left", pad_edge=False)
    for column in ("at", "who", "what", "", "ms", ""):
        shown.add_column(column, justify="right" if column == "ms" else "left", no_wrap=True)
    for bar in sorted(bars, key=lambda bar: (bar.ends, bar.begins)):
        before = int((bar.begins - first) * scale)
        drawn = "█" * max(1, round((bar.ends - bar.begins) * scale))
        at = datetime.fromtimestamp(bar.ends, UTC)
        took = f"{(bar.ends - bar.begins) * 1000:.1f}"
        shown.add_row(
            f"{at:%H:%M:%S}.{at.microsecond // 1000:03d}",
            bar.who,
            bar.what,
            f"{' ' * before}[cyan]{drawn}[/]",
            took,
            escape(bar.more),
        )
    wide(shown)


def _seconds(at: str) -> float:
    return datetime.fromisoformat(at).timestamp()
