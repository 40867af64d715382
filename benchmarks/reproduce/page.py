"""The tables of docs/reproduce.md, and the list that the program prints."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.record import Piece, table
from benchmarks.reproduce.compare import NOT_RUN
from benchmarks.reproduce.rows import NAMES, Row
from benchmarks.zoo import fill

KEY = "rows"  # of the markers in the page
SHORT = {"AP_voc07": "mAP (VOC07)", "AP_voc": "mAP (VOC12)"}


def status_of(row: Row, results: Mapping[str, Piece]) -> str:
    """The status of a row in the results so far; one of an earlier form of the file does not count."""
    piece = results.get(row.name)
    return piece["status"] if piece and piece["key"] == row.key else NOT_RUN


def write_page(page: str, rows: Sequence[Row], results: Mapping[str, Piece], checks: Mapping[str, Piece]) -> str:
    """The page with all rows between its markers: a heading for each publication, a table for each of its tables, and
    what is to be said of its rows."""
    parts = [_counts(rows, results, checks)]
    for title in dict.fromkeys(row.title for row in rows):
        own = [row for row in rows if row.title == title]
        remarks = _remarks(own)
        parts.append(f"### {title}")
        for where in sorted({row.table for row in own}):
            part = [row for row in own if row.table == where]
            parts += [f"{part[0].repository}: {where}", "\n".join(_table(part, list(remarks), results, checks))]
        parts.append("\n".join(f"{number}. {text}" for number, text in enumerate(remarks.values(), 1)))
    return fill(page, KEY, "\n\n".join(filter(None, parts)), "reproduce.md")


def _counts(rows: Sequence[Row], results: Mapping[str, Piece], checks: Mapping[str, Piece]) -> str:
    counts: dict[str, int] = {}
    for row in rows:
        counts[status_of(row, results)] = counts.get(status_of(row, results), 0) + 1
    started = sum(row.name in checks and "error" not in checks[row.name] for row in rows)
    told = ", ".join(f"{count} {status}" for status, count in counts.items())
    return f"{len(rows)} rows: {told}. {started} of them started and trained ten steps here (`--check`)."


def _table(rows: Sequence[Row], remarks: Sequence[str], results: Mapping[str, Piece],
           checks: Mapping[str, Piece]) -> list[str]:
    numbers = [name for name in NAMES if any(name in row.published for row in rows)]
    head = ["row", "printed as", *(SHORT.get(name, name) for name in numbers), "status", "ten steps", "remarks"]
    return table(head, [[f"`{row.name}`", row.row, *(_cell(row, name, results) for name in numbers),
                         _status(row, results), _check_cell(checks.get(row.name)),
                         " ".join(str(remarks.index(text) + 1) for text in (*row.missing, *row.notes))]
                        for row in rows])


def _cell(row: Row, name: str, results: Mapping[str, Piece]) -> str:
    """The published number, behind it in bold what was measured."""
    if name not in row.published:
        return ""
    published = printed(row.published[name])
    measured = results[row.name].get("measured", {}) if status_of(row, results) != NOT_RUN else {}
    return f"{published}, **{measured[name]:.2f}**" if name in measured else published


def _status(row: Row, results: Mapping[str, Piece]) -> str:
    status = status_of(row, results)
    if status == NOT_RUN:
        return status if row.comparable else f"{status}; no target"
    piece = results[row.name]
    outside = f" ({', '.join(piece['outside'])})" if piece.get("outside") else ""
    return f"{status}{outside}, {piece['date'][:10]}, {piece['device']}"


def _check_cell(piece: Mapping[str, Any] | None) -> str:
    if piece is None:
        return ""
    return f"failed: {piece['error']}".replace("|", "/") if "error" in piece else f"{piece['train_seconds']:.0f} s"


def _remarks(rows: Sequence[Row]) -> dict[str, str]:
    """What the publications lack, then what else is to be said of their rows: each sentence once -> as printed."""
    missing = {text: f"**Missing:** {text}." for row in rows for text in row.missing}
    return missing | {text: text for row in rows for text in row.notes}


def printed(number: float) -> str:
    """A published number with the decimals that it has, one at least."""
    return f"{number:.1f}" if round(number, 1) == number else f"{number:g}"


def write_list(rows: Sequence[Row], results: Mapping[str, Piece]) -> str:
    """All rows as lines of text, with their published numbers and status."""
    width = max(len(row.name) for row in rows)
    lines = []
    for row in rows:
        numbers = ", ".join(f"{name} {printed(value)}" for name, value in row.published.items())
        lines.append(f"{row.name:{width}}  {status_of(row, results)}; {numbers or 'no number published'}")
    return "\n".join(lines)
