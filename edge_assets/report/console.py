"""Tables that fit where they are printed: text wraps, numbers are never cut, and columns without room are named."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDTH = 150  # where there is no terminal, unless COLUMNS says another
GAP = 2  # between columns
LONGEST = 24  # a word of text that is longer may break


def console() -> Console:
    """Where commands print: as wide as the terminal, or as long lines that a file or another program reads whole."""
    found = Console(highlight=False)
    if found.is_terminal or "COLUMNS" in os.environ:
        return found
    return Console(highlight=False, width=WIDTH)


@dataclass(frozen=True)
class Column:
    """One column of a table: text, which wraps, or numbers, which are whole or not there."""

    heading: str  # a number's may have several lines, so that it is no wider than what is below it
    need: int  # of those that find no room, the least needed is left out first
    is_number: bool = False
    least: int = 0  # characters below which text is unreadable

    @property
    def name(self) -> str:
        """The heading in one line."""
        return self.heading.replace("\n", " ")

    def narrowest(self, cells: Sequence[Text]) -> int:
        """How few characters will do."""
        widest = self.widest(cells)
        if self.is_number:
            return widest
        words = [len(word) for cell in (Text(self.heading), *cells) for word in cell.plain.split()]
        longest = min(max(words), LONGEST)
        return min(max(longest, self.least), widest)

    def widest(self, cells: Sequence[Text]) -> int:
        """How many characters it fills at most."""
        found = [line.cell_len for cell in (Text(self.heading), *cells) for line in cell.split()]
        return max(found)


@dataclass(frozen=True)
class Line:
    """One line of a table, a cell for each column, and its style."""

    cells: Sequence[str | Text]
    style: str | None = None


def print_table(
    place: Console,
    title: str,
    columns: Sequence[Column],
    lines: Sequence[Line],
    elsewhere: str = "--json has all",
) -> None:
    """A table with the columns that there is room for, and one line that names the others and where they are."""
    texts = [[_text(cell) for cell in line.cells] for line in lines]
    cells = {column: [text[number] for text in texts] for number, column in enumerate(columns)}
    shown = _with_room(cells, place.width)
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for column, width in _widths(cells, shown, place.width).items():
        table.add_column(
            column.heading,
            justify="right" if column.is_number else "left",
            no_wrap=column.is_number,
            overflow="fold",
            width=width,
        )
    for number, line in enumerate(lines):
        table.add_row(*[cells[column][number] for column in shown], style=line.style)
    place.print(title, style="italic", markup=False, soft_wrap=True)
    place.print(table)
    lacking = [column.name for column in columns if column not in shown]
    if lacking:
        place.print(
            f"left out at {place.width} columns: {', '.join(lacking)}; {elsewhere}",
            style="dim",
            markup=False,
            soft_wrap=True,
        )


def _text(cell: str | Text) -> Text:
    return Text(cell) if isinstance(cell, str) else cell


def _with_room(cells: dict[Column, list[Text]], room: int) -> list[Column]:
    """The most needed columns, at least one, in their order."""
    shown = list(cells)
    while len(shown) > 1:
        taken = sum(column.narrowest(cells[column]) for column in shown)
        if taken + GAP * (len(shown) - 1) <= room:
            break
        shown.remove(min(shown, key=lambda column: column.need))
    return shown


def _widths(cells: dict[Column, list[Text]], shown: Sequence[Column], room: int) -> dict[Column, int]:
    """Each column's width. What is left over goes to those that lack the least, so that the longest text wraps."""
    widths = {column: min(column.narrowest(cells[column]), room) for column in shown}
    lacks = {column: column.widest(cells[column]) - widths[column] for column in shown}
    spare = room - sum(widths.values()) - GAP * (len(shown) - 1)
    for column in sorted(shown, key=lacks.__getitem__):
        given = min(lacks[column], spare)
        widths[column] += given
        spare -= given
    return widths
