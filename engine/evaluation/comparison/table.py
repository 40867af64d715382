"""One table of several models or results files: as text, CSV and LaTeX."""

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from engine.evaluation.comparison.bootstrap import LEVEL, TOO_FEW, Difference
from engine.evaluation.metrics.protocol import Protocol
from utils.errors import printable

NAME_WIDTH = 40
ESCAPES = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$",
           **{letter: "\\" + letter for letter in "&%$#_{}"}}


@dataclass(frozen=True)
class Facts:
    """What a model is and costs; None where it is not known. params: numbers that it learns; flops: of one image of
    height x width pixels (`models.summary.summarise`); size: how images are given to it; ms: per image."""

    params: int | None = None
    flops: float | None = None
    size: str | None = None
    ms: float | None = None

    def cells(self) -> tuple[str, str, str, str]:
        """As a table shows them."""
        def number(value: float | None, unit: float, digits: int) -> str:
            return "" if value is None else f"{value / unit:.{digits}f}"

        return number(self.params, 1e6, 2), number(self.flops, 1e9, 1), self.size or "", number(self.ms, 1, 1)


FACTS = ("Params (M)", "GFLOPs", "Size", "ms")


@dataclass(frozen=True)
class Row:
    """One model or file. values: protocol name -> number -> value in [0, 1] or -1; differences: the same, to the first
    row; unseen: images that were not evaluated."""

    name: str
    values: Mapping[str, Mapping[str, float]]
    facts: Facts = Facts()
    differences: Mapping[str, Mapping[str, Difference]] = field(default_factory=dict)
    unseen: int = 0


def format_rows(rows: Sequence[Row], protocols: Sequence[Protocol]) -> str:
    """A table for each protocol, a line for each row; undefined values are '-'."""
    width = min(max(5, *(len(row.name) for row in rows)), NAME_WIDTH)
    shown, blocks = _facts_shown(rows), []
    for protocol in protocols:
        head = [*(FACTS[k] for k in shown), *protocol.names]
        widths = [max(6, len(title), *(len(row.facts.cells()[k]) for row in rows for k in shown[n:n + 1]))
                  for n, title in enumerate(head)]
        lines = [protocol.title, f"{'Model':<{width}}" + _line(head, widths)]
        for row in rows:
            cells = [row.facts.cells()[k] or "-" for k in shown]
            values = (row.values[protocol.name][number] for number in protocol.names)
            cells += ["-" if value < 0 else f"{value:.3f}" for value in values]
            name = printable(row.name)
            name = name if len(name) <= width else "…" + name[1 - width:]  # the end of a path tells more
            lines.append(f"{name:<{width}}" + _line(cells, widths))
        blocks.append("\n".join(lines))
    unseen = [f"{row.name}: {row.unseen} images were not evaluated: their objects count as missed" for row in rows
              if row.unseen]
    return "\n\n".join(blocks) + "".join(f"\n{line}" for line in unseen)


def format_differences(rows: Sequence[Row], protocols: Sequence[Protocol], how: str) -> str:
    """What the rows gain over the first, with intervals; '' where none has differences. how: of the resampling."""
    lines = []
    for protocol in protocols:
        for row in rows:
            if protocol.name not in row.differences:
                continue
            lines.append(f"{row.name} minus {rows[0].name}, {protocol.name}: {LEVEL} % interval, {how}")
            for name, gain in row.differences[protocol.name].items():
                if not math.isfinite(gain.value):
                    continue
                told = f"[{gain.low:+.4f}, {gain.high:+.4f}]  0 is {'outside' if gain.is_clear else 'inside'}"
                lines.append(f"  {name:<10} {gain.value:+.4f}  {told if math.isfinite(gain.low) else TOO_FEW}")
    return "\n".join(lines)


def to_csv(rows: Sequence[Row], protocols: Sequence[Protocol]) -> str:
    """All numbers with all digits, a line for each row; where there are differences, value and interval behind each
    number. Undefined values are empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    ends = ("difference", "low", "high")
    columns = [(protocol, name) for protocol in protocols for name in protocol.names]
    compared = [any(protocol.name in row.differences for row in rows) for protocol, _ in columns]
    writer.writerow(["model", "parameters", "flops", "size", "ms_per_image", "images_not_evaluated",
                     *(f"{protocol.name} {name}{end}" for (protocol, name), more in zip(columns, compared, strict=True)
                       for end in ("", *(f" {end}" for end in ends * more)))])
    for row in rows:
        facts = row.facts
        cells = [row.name, facts.params, facts.flops, facts.size, facts.ms, row.unseen]
        for (protocol, name), more in zip(columns, compared, strict=True):
            value = row.values[protocol.name][name]
            cells.append(None if value < 0 else repr(float(value)))
            gain = row.differences.get(protocol.name, {}).get(name)
            cells += [repr(n) if gain and math.isfinite(n) else None for n in
                      ((gain.value, gain.low, gain.high) if gain else (math.nan,) * 3)] * more
        writer.writerow(["" if cell is None else cell for cell in cells])
    return text.getvalue()


def to_latex(rows: Sequence[Row], protocols: Sequence[Protocol]) -> str:
    """A table for LaTeX with booktabs: average precisions in per cent, the best of each column bold.

    Recalls are left to the CSV. A dagger marks a difference to the first row whose interval leaves 0 out.
    """
    shown = _facts_shown(rows)
    titles = ("Params (M)", "GFLOPs", "Size", "Time (ms)")
    columns = [[stat.name for stat in protocol.stats if stat.kind == "AP"] for protocol in protocols]
    lines = ["% \\usepackage{booktabs}", f"\\begin{{tabular}}{{l{'r' * (len(shown) + sum(map(len, columns)))}}}",
             "\\toprule"]
    if len(protocols) > 1:
        at, spans, rules = 2 + len(shown), [], []
        for protocol, names in zip(protocols, columns, strict=True):
            spans.append(f"\\multicolumn{{{len(names)}}}{{c}}{{{escaped(protocol.title.partition(':')[0])}}}")
            rules.append(f"\\cmidrule(lr){{{at}-{at + len(names) - 1}}}")
            at += len(names)
        lines += [" & ".join([" ", *(" " for _ in shown), *spans]) + r" \\", " ".join(rules)]
    symbols = [_symbol(name) for names in columns for name in names]
    lines += [" & ".join(["Model", *(titles[k] for k in shown), *symbols]) + r" \\", "\\midrule"]
    best = {(protocol.name, name): max(_percent(row.values[protocol.name][name]) for row in rows)
            for protocol, names in zip(protocols, columns, strict=True) for name in names}
    marked = False
    for row in rows:
        facts = [row.facts.cells()[k] for k in shown]
        cells = [escaped(row.name), *(escaped(fact).replace(" x ", r"$\times$") or "--" for fact in facts)]
        for (protocol, name), highest in best.items():
            gain = row.differences.get(protocol, {}).get(name)
            value, clear = _percent(row.values[protocol][name]), gain is not None and gain.is_clear
            text = "--" if value < 0 else f"{value:.1f}"
            text = f"\\textbf{{{text}}}" if value == highest and value >= 0 and len(rows) > 1 else text
            cells.append(text + "$^{\\dagger}$" * clear)
            marked |= clear
        lines.append(" & ".join(cells) + r" \\")
    note = f"% dagger: 0 lies outside of the {LEVEL} % interval of the difference to the first row (paired bootstrap)"
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", *[note] * marked]) + "\n"


def escaped(text: str) -> str:
    """Plain text for LaTeX."""
    return "".join(ESCAPES.get(letter, letter) for letter in printable(text))


def _symbol(name: str) -> str:
    """`AP_S` and `AP50` as AP with an index."""
    head, index = re.fullmatch(r"(A[PR])_?(.*)", name).groups() if re.match("A[PR]", name) else (name, "")
    return escaped(head) + (f"$_{{\\mathrm{{{escaped(index)}}}}}$" if index else "")


def _percent(value: float) -> float:
    """As the table shows it, so that what looks equal is equal."""
    return round(100 * value, 1) if value >= 0 else -1.0


def _facts_shown(rows: Sequence[Row]) -> list[int]:
    """The columns of `FACTS` that a row has something in."""
    return [k for k in range(len(FACTS)) if any(row.facts.cells()[k] for row in rows)]


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "".join(f"  {cell:>{size}}" for cell, size in zip(cells, widths, strict=True))
