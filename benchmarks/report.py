"""Shows results in the terminal, and writes them into docs/benchmarks.md between two marks. The rest of the page is
written by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

from . import marks, picture
from .results import Results
from .tables import Table, all_tables

DOCS = Path(__file__).parent.parent / "docs"
PAGE, PICTURE = DOCS / "benchmarks.md", DOCS / "benchmarks.svg"
RESULTS, NEWEST = "results", "newest"
"""The sections of the page that are written: the results, and the main table on the newest RabbitMQ."""


def about_lines(about: dict[str, Any]) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return [
        f"{about['date']}: {about['command']}",
        f"{about['cores']} cores of {about['processor']}, {about['memory']} of memory, {about['system']}; "
        f"{about['python']}; {', '.join(about['brokers'].values())}",
        versions,
    ]


def show(results: Results, console: Console) -> None:
    for line in about_lines(results.about):
        console.print(line, markup=False, highlight=False)
    for table in [*all_tables(results), marks.table(results)]:
        shown = RichTable(title=table.title, title_justify="left", title_style="bold")
        for number, name in enumerate(table.header):
            shown.add_column(name, justify="right" if number else "left", overflow="fold")
        for row in table.rows:
            shown.add_row(*(cell.replace("**", "") for cell in row))
        console.print(shown)


def write_docs(results: Results, section: str = RESULTS) -> None:
    """Writes a section of the page; RESULTS has the picture and the marks too."""
    page = PAGE.read_text("utf-8")
    option = "--docs" if section == RESULTS else f"--docs {section}"
    begin, end = f"<!-- {section}: written by python -m benchmarks {option} -->", f"<!-- end of {section} -->"
    before, _, rest = page.partition(begin)
    _, ended, after = rest.partition(end)
    if not ended:
        raise SystemExit(f"{PAGE.name} has no place for the results: {begin} ... {end}")
    parts, tables = ["\n".join(f"- {line}" for line in about_lines(results.about))], all_tables(results)
    if section == RESULTS:
        parts.append(f"![Client CPU a message]({PICTURE.name})")
        tables.append(marks.table(results))
        picture.draw(results, PICTURE)
    parts += [_markdown(table) for table in tables]
    PAGE.write_text(before + begin + "\n\n" + "\n\n".join(parts) + "\n\n" + end + after, "utf-8")


def _markdown(table: Table) -> str:
    lines = [_line(table.header), _line(["---"] + ["---:"] * (len(table.header) - 1))]
    lines += [_line(row) for row in table.rows]
    return f"**{table.title}**\n\n" + "\n".join(lines)


def _line(cells: Any) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
