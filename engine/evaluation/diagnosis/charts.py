"""Charts of a diagnosis as inline SVG. All texts are escaped."""

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

INK, GRID, BAR = "#222222", "#dddddd", "#4878a8"
# Of the causes in their order: Tol's "bright" colours and greys (Paul Tol 2021), apart for colour-blind readers too.
CAUSE_COLOURS = ("#555555", "#aa3377", "#cc99bb", "#ee7733", "#228833", "#4477aa", "#66ccee", "#ccbb44", "#bbbbbb")


def stacked_bars(table: np.ndarray, totals: np.ndarray, columns: Sequence[str], titles: Sequence[str]) -> str:
    """Share of the objects of each column that is missed, by cause. table (causes, columns), totals (columns,)."""
    width, height, left, top = 640, 260, 46, 14
    step = (width - left) / len(columns)
    parts = [_axis(left, top, width, height, [f"{k * 25} %" for k in range(5)])]
    for c, name in enumerate(columns):
        x, base = left + step * (c + 0.18), float(top + height)
        for r in np.flatnonzero(table[:, c]):
            tall = height * table[r, c] / max(totals[c], 1)
            base -= tall
            told = f"{titles[r]}: {table[r, c]} of {totals[c]}"
            parts.append(f'<rect x="{x:.1f}" y="{base:.2f}" width="{step * 0.64:.1f}" height="{tall:.2f}" '
                         f'fill="{CAUSE_COLOURS[r]}"><title>{escape(told)}</title></rect>')
        parts.append(_text(x + step * 0.32, top + height + 18, name, "middle"))
        parts.append(_text(x + step * 0.32, top + height + 34, f"{totals[c]} objects", "middle", 11))
    return _svg(width, top + height + 42, "Share of objects that is missed, by size and cause", parts)


def legend(rows: Sequence[int], titles: Sequence[str]) -> str:
    """The colours of some causes, as HTML."""
    return keys([(CAUSE_COLOURS[r], titles[r]) for r in rows])


def keys(rows: Sequence[tuple[str, str]]) -> str:
    """Colours and what they mean, as HTML."""
    cells = (f'<li><span class="key" style="background:{colour}"></span>{escape(title)}</li>' for colour, title in rows)
    return f'<ul class="legend">{"".join(cells)}</ul>'


def reliability(bins: Sequence[dict[str, Any]]) -> str:
    """Share of hits over the mean score of each bin of scores, with the diagonal of a calibrated model."""
    side, left, top = 260, 46, 14
    ticks = ("0", ".25", ".5", ".75", "1")
    parts = [_axis(left, top, left + side, side, ticks)]
    for row in (row for row in bins if row["count"]):
        x, wide = left + side * row["bin_lower"], side * (row["bin_upper"] - row["bin_lower"])
        tall = side * row["avg_accuracy"]
        told = (f"{row['count']} detections, mean score {row['avg_confidence']:.3f}, share of hits "
                f"{row['avg_accuracy']:.3f}")
        parts.append(f'<rect x="{x + 1:.1f}" y="{top + side - tall:.1f}" width="{wide - 2:.1f}" '
                     f'height="{max(tall, 1):.1f}" fill="{BAR}"><title>{told}</title></rect>'
                     f'<circle cx="{left + side * row["avg_confidence"]:.1f}" cy="{top + side - tall:.1f}" r="3" '
                     f'fill="{INK}"/>')
    parts.append(f'<line x1="{left}" y1="{top + side}" x2="{left + side}" y2="{top}" stroke="{INK}" '
                 'stroke-dasharray="4 4"/>')
    parts += [_text(left + side * k / 4, top + side + 18, name, "middle") for k, name in enumerate(ticks)]
    parts.append(_text(left + side / 2, top + side + 36, "score", "middle"))
    return _svg(left + side + 12, top + side + 42, "Share of hits over the score", parts)


def bars(rows: Sequence[tuple[str, float, str]], title: str) -> str:
    """Horizontal bars: a name, a value of 0 or more, and its text."""
    step, left, width = 24, 190, 560
    most = max([value for _, value, _ in rows] + [1e-12])
    parts = []
    for k, (name, value, text) in enumerate(rows):
        y, wide = k * step, (width - left - 90) * max(value, 0) / most
        parts += [_text(left - 8, y + 16, name, "end"),
                  f'<rect x="{left}" y="{y + 4}" width="{wide:.1f}" height="{step - 8}" fill="{BAR}"/>',
                  _text(left + wide + 6, y + 16, text)]
    return _svg(width, step * len(rows) + 4, title, parts)


def _axis(left: float, top: float, right: float, height: float, names: Sequence[str]) -> str:
    lines = []
    for k, name in enumerate(names):
        y = top + height * (1 - k / (len(names) - 1))
        lines += [f'<line x1="{left}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" stroke="{GRID}"/>',
                  _text(left - 6, y + 4, name, "end", 11)]
    return "".join(lines)


def _text(x: float, y: float, text: str, anchor: str = "start", size: int = 12) -> str:
    return (f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{INK}">'
            f'{escape(str(text))}</text>')


def _svg(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    return (f'<svg role="img" aria-label="{escape(title)}" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
            f'height="{height:.0f}" font-family="sans-serif">{"".join(parts)}</svg>')
