"""Text at the width of the terminal: tables that fit, and long lines wrapped.

The width is COLUMNS where it is set, else the terminal's; output to a file or a pipe has none and is not cut.
"""

import io
import os
import re
import sys
import textwrap
from collections.abc import Sequence

NARROWEST = 20
"""Columns below which nothing is made narrower."""
READABLE_CELL = 16
"""Width down to which a cell of several words is wrapped; below it, the table is split instead."""
EDGE = 1
WIDE_GAP, NARROW_GAP = 3, 2


def columns() -> int | None:
    """Width in characters that lines have to fit, None where there is no limit."""
    given = os.environ.get("COLUMNS", "")
    if given.isascii() and given.isdigit() and int(given[:6]) > 0:
        return max(NARROWEST, int(given[:6]))
    out = sys.__stdout__  # sys.stdout may be standard error while a user's model runs
    try:
        found = os.get_terminal_size(out.fileno()).columns if out is not None and out.isatty() else 0
    except (AttributeError, OSError, ValueError):
        return None
    return max(NARROWEST, found) if found else None


def wrapped(text: str, limit: int | None = None) -> str:
    """The text with every line longer than the limit broken between words, what follows indented by two more."""
    limit = columns() if limit is None else limit
    if limit is None:
        return text
    return "".join(line if len(line.rstrip("\n")) <= limit else _broken(line, limit) for line in text.splitlines(True))


def _broken(line: str, limit: int) -> str:
    body = line.rstrip("\n")
    lead = body[: len(body) - len(body.lstrip())][: limit // 2]
    room = limit - len(lead) - 2
    spaced = " ".join(" ".join(_formula(word, room)) if len(word) > room else word for word in body.split(" "))
    parts = textwrap.wrap(
        spaced.strip(),
        limit,
        initial_indent=lead,
        subsequent_indent=f"{lead}  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(parts) + line[len(body) :]


def _formula(word: str, room: int) -> list[str]:
    """A formula too long for a line in pieces that end behind an operator or a comma; a path stays whole."""
    if "(" not in word:
        return [word]
    pieces = [""]
    for part in re.split(r"(?<=[+*/,(])", word):
        if pieces[-1] and len(pieces[-1] + part) > room:
            pieces.append("")
        pieces[-1] += part
    return pieces


def table(columns_: Sequence[str], rows: Sequence[Sequence[str]], sections: Sequence[int] = (), keys: int = 1) -> str:
    """A boxed table with a rule before each row in `sections`: its gaps dropped, its cells wrapped, and last its
    columns split in blocks that repeat the first `keys`, as far as the terminal's width asks for it.
    """
    limit = columns()
    widths = [max(map(len, cells)) for cells in zip(columns_, *rows, strict=True)]
    if limit is None or _total(widths, WIDE_GAP) <= limit:
        return _drawn(columns_, rows, sections, widths, WIDE_GAP)
    least = [_least(cells) for cells in zip(columns_, *rows, strict=True)]
    blocks = _blocks(least, limit, keys)
    drawn = []
    for block in blocks:
        kept = _narrowed([widths[at] for at in block], [least[at] for at in block], limit)
        gap = WIDE_GAP if _total(kept, WIDE_GAP) <= limit else NARROW_GAP
        cells = [[row[at] for at in block] for row in rows]
        drawn.append(_drawn([columns_[at] for at in block], cells, sections, kept, gap))
    return "\n".join(drawn)


def _total(widths: Sequence[int], gap: int) -> int:
    return EDGE + sum(widths) + gap * (len(widths) - 1)


def _least(cells: Sequence[str]) -> int:
    """The narrowest that a column can readably be: its longest word, and READABLE_CELL where it is wider."""
    word = max((len(word) for cell in cells for word in cell.split()), default=0)
    return max(word, min(READABLE_CELL, max(map(len, cells))))


def _blocks(least: Sequence[int], limit: int, keys: int) -> list[list[int]]:
    """Places of the columns of each block, filled from the left."""
    first = list(range(min(keys, len(least))))
    blocks = [list(first)]
    for place in range(len(first), len(least)):
        together = [least[at] for at in (*blocks[-1], place)]
        if len(blocks[-1]) > len(first) and _total(together, NARROW_GAP) > limit:
            blocks.append(list(first))
        blocks[-1].append(place)
    return blocks


def _narrowed(widths: list[int], least: list[int], limit: int) -> list[int]:
    """The widths, the widest made narrower until all fit: down to `least`, and below where even that is too wide."""
    widths = list(widths)
    while _total(widths, NARROW_GAP) > limit and max(widths) > 1:
        can = [at for at, width in enumerate(widths) if width > least[at]] or range(len(widths))
        widest = max(can, key=lambda at: widths[at])
        widths[widest] -= 1
    return widths


def _drawn(
    columns_: Sequence[str], rows: Sequence[Sequence[str]], sections: Sequence[int], widths: Sequence[int], gap: int
) -> str:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1) if gap == WIDE_GAP else (0, 1, 0, 0))
    for place, (name, width) in enumerate(zip(columns_, widths, strict=True)):
        whole = all(len(cells[place]) <= width for cells in (columns_, *rows))
        spaced = any(" " in row[place] for row in rows)
        justify = "left" if not place or (not whole and spaced) else "right"
        grid.add_column(name, justify=justify, no_wrap=whole, overflow="fold", width=width)
    for place, row in enumerate(rows):
        if place in sections and place > 0:
            grid.add_section()
        grid.add_row(*row)
    out = io.StringIO()
    room = sum(widths) + 3 * len(widths) + 3
    Console(file=out, width=room, color_system=None, markup=False).print(grid)
    return "\n".join(line.rstrip() for line in out.getvalue().strip("\n").splitlines())
