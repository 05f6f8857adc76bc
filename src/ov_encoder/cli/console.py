"""How commands print: quiet two-column facts, plain tables, sparklines. Nothing is computed here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text


def print_facts(heading: str, facts: Iterable[tuple[str, str]], console: Console | None = None) -> None:
    """A heading and lines of `name  value`. File names are never read as markup."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts:
        table.add_row(Text(name), Text(value))
    console = console or Console()
    console.print(Text(heading, style="bold"), soft_wrap=True)
    console.print(table)


def print_table(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    right: Sequence[int] = (),
    console: Console | None = None,
) -> None:
    """A plain table; the columns in `right` are set to the right."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for i, name in enumerate(header):
        table.add_column(name, justify="right" if i in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    (console or Console()).print(table)


def sparkline(values: Sequence[float], width: int = 60) -> str:
    """Values as bars of one line, from zero to the largest; more than `width` values are averaged."""
    n = min(width, len(values))
    groups = [values[i * len(values) // n : (i + 1) * len(values) // n] for i in range(n)]
    means = [sum(group) / len(group) for group in groups]
    top = max(means, default=0.0) or 1.0
    return "".join("▁▂▃▄▅▆▇█"[min(7, int(8 * mean / top))] for mean in means)
