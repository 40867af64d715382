"""The tables, the verdicts and the plot of an ablation, from the run.json and predictions.json of its runs."""

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.ablate.plan import Arm, Plan, budget
from benchmarks.ablate.statistics import difference, numbers_of, precisions, verdict
from benchmarks.record import table
from benchmarks.table import spread
from data import load_index
from engine.evaluation.comparison.bootstrap import LEVEL, Difference
from engine.evaluation.comparison.results_reader import read_results
from engine.evaluation.comparison.table import escaped
from engine.evaluation.metrics.protocol import COCO
from engine.evaluation.protocol_flags import chosen_protocol
from utils.errors import UserError
from utils.files import write_bytes
from utils.reporting.plots import new_figure, write_figure


@dataclass
class Line:
    """One arm: results of its finished runs, and its differences to the first by number. compared: how many seeds these
    are of, which both have; ms: of an image, if known."""

    arm: Arm
    runs: list[dict[str, Any]]
    gains: dict[str, Difference] = field(default_factory=dict)
    compared: int = 0
    ms: float | None = None

    def numbers(self, name: str) -> list[float]:
        """The number of each seed that has one."""
        return [run["values"][name] for run in self.runs if run["values"].get(name) is not None]

    def differs(self, name: str) -> bool:
        """Whether the seeds tell it apart from the first."""
        return name in self.gains and verdict(self.gains[name], self.compared) in ("better", "worse")


@dataclass
class Report:
    """All lines, the names of the numbers, and notes for below the table."""

    plan: Plan
    lines: list[Line]
    names: list[str]
    notes: list[str]


def make_report(plan: Plan, folder: Path, results: dict[str, dict[str, Any]], resamples: int,
                ms: dict[str, float]) -> Report:
    """The numbers of all finished runs of a plan. results: by key of a run."""
    lines = [Line(arm, [results[run.key] for run in plan.runs if run.arm == arm and run.key in results],
                  ms=ms.get(arm.name)) for arm in plan.arms]
    names = list(dict.fromkeys(name for line in lines for run in line.runs for name in run["values"]
                               if name.startswith("AP")))
    notes = [*plan.notes, budget(plan)]
    if plan.split == "test":
        notes.append("best.pt of each run is chosen on the validation split; the numbers are of the test split")
    if resamples:
        notes += _compare(plan, folder, lines, resamples)
    commits = sorted({str(run["commit"]) for line in lines for run in line.runs})
    if len(commits) > 1 or any(commit.endswith("+") for commit in commits):
        notes.append(f"commits of the runs: {', '.join(commits)} (+: with changes that are not committed)")
    return Report(plan, lines, names, notes)


def _compare(plan: Plan, folder: Path, lines: list[Line], resamples: int) -> list[str]:
    """Fill in the differences of every arm to the first; returns notes."""
    config = plan.arms[0].config
    protocols = [COCO] + [own for own in (chosen_protocol(config),) if own.rule == "coco" and own != COCO]
    index = load_index(config.data or "shapes", plan.split, single_cls=config.single_cls, max_pixels=config.max_pixels)
    first, *others = lines
    numbers, notes = {}, []  # of each arm by seed, a protocol after the other
    for line in lines:
        numbers[line.arm.name] = own = {}
        for run in line.runs:
            path = folder / "test" / run["run"] / "predictions.json"
            try:
                found = read_results(path, index.truth, index.names).found
            except UserError as error:
                notes.append(f"not in the intervals: {error}")
                continue
            own[run["seed"]] = [numbers_of(index.truth, found, precisions(one), resamples) for one in protocols]
    for line in others:
        seeds = sorted(numbers[first.arm.name].keys() & numbers[line.arm.name].keys())
        line.compared = len(seeds)
        for k, protocol in enumerate(protocols if seeds else ()):
            ours, theirs = (np.stack([numbers[one.arm.name][seed][k] for seed in seeds]) for one in (first, line))
            line.gains = dict(zip(precisions(protocol).names, difference(ours, theirs), strict=True)) | line.gains
    notes.append(f"intervals: {LEVEL} %, {resamples} resamples of {len(index)} images and of the seeds that both arms "
                 "have, in pairs; one number in twenty of equal arms lies outside of its interval by chance")
    return notes


def verdicts(report: Report, name: str = "AP") -> list[str]:
    """A sentence for each arm but the first."""
    first, *others = report.lines
    said = []
    for line in others:
        if name not in line.gains:
            said.append(f"{line.arm.name}: no seed that both arms have finished" if not (line.runs and first.runs) else
                        f"{line.arm.name}: no interval")
            continue
        gain = line.gains[name]
        ends = f", {LEVEL} % interval [{gain.low:+.4f}, {gain.high:+.4f}]" if math.isfinite(gain.low) else ""
        said.append(f"{line.arm.name}: {name} {gain.value:+.4f} against {first.arm.name}{ends}: "
                    f"{verdict(gain, line.compared)}")
    return said


def as_text(report: Report) -> str:
    """The table, verdicts on AP and AP_S, and notes."""
    heads = ["arm", "runs", *report.names, "params", "GFLOPs", "ms", "train s"]
    rows = [[line.arm.name, str(len(line.runs)), *(_cell(line.numbers(name)) for name in report.names),
             *_costs(line)] for line in report.lines]
    widths = [max(len(row[k]) for row in [heads, *rows]) for k in range(len(heads))]
    lines = ["  ".join(cell.ljust(w) if not k else cell.rjust(w) for k, (cell, w) in enumerate(zip(row, widths)))
             for row in [heads, *rows]]
    said = [sentence for name in ("AP", "AP_S") if name in report.names for sentence in verdicts(report, name)]
    return "\n".join([*lines, "", *said, "", *report.notes]) + "\n"


def as_markdown(report: Report) -> str:
    """Mean and deviation of each number, then the differences to the first with their intervals, bold where told
    apart."""
    first, *others = report.lines
    heads = ["arm", "seeds", *report.names, "params (M)", "GFLOPs", "ms"]
    rows = [[line.arm.name, str(len(line.runs)), *(_cell(line.numbers(name)) for name in report.names),
             *_costs(line)[:3]] for line in report.lines]
    gains = [[line.arm.name, *(_gain(line, name) for name in report.names)] for line in others]
    return "\n".join([*table(heads, rows), "", *table([f"minus {first.arm.name}", *report.names], gains)]) + "\n"


def as_csv(report: Report) -> str:
    """All digits: mean, standard deviation over seeds, difference to the first arm and its interval."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    ends = ("", " sd", " difference", " low", " high")
    writer.writerow(["arm", "flags", "runs", "seeds", *(f"{name}{end}" for name in report.names for end in ends),
                     "parameters", "flops", "ms", "seconds"])
    for line in report.lines:
        cells: list[Any] = [line.arm.name, " ".join(line.arm.words), len(line.runs),
                            " ".join(str(run["seed"]) for run in line.runs)]
        for name in report.names:
            mean, sd = (spread(line.numbers(name)) if line.numbers(name) else None) or (math.nan, math.nan)
            gain = line.gains.get(name, Difference(math.nan, math.nan, math.nan))
            cells += ["" if math.isnan(x) else repr(float(x)) for x in (mean, sd, gain.value, gain.low, gain.high)]
        seconds = [run["seconds"] for run in line.runs]
        writer.writerow([*cells, line.arm.parameters, line.arm.flops, line.ms, sum(seconds) / max(len(seconds), 1)])
    return text.getvalue()


def as_latex(report: Report) -> str:
    """The table for booktabs; a dagger marks a difference to the first arm whose interval leaves 0 out."""
    lines = ["% \\usepackage{booktabs}", f"\\begin{{tabular}}{{lr{'r' * len(report.names)}rrr}}", "\\toprule",
             " & ".join(["Arm", "Runs", *map(escaped, report.names), "Params (M)", "GFLOPs", "ms"]) + r" \\",
             "\\midrule"]
    for line in report.lines:
        cells = [_cell(line.numbers(name), r" $\pm$ ").replace("-", "--") + "$^{\\dagger}$" * line.differs(name)
                 for name in report.names]
        lines.append(" & ".join([escaped(line.arm.name), str(len(line.runs)), *cells, *_costs(line)[:3]]) + r" \\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"]) + "\n"


def plot(report: Report, path: Path, name: str = "AP") -> None:
    """Left a dot for each seed and a bar for the mean, right the interval of the difference to the first arm."""
    figure = new_figure(11, 1.5 + 0.45 * len(report.lines))
    left, right = figure.subplots(1, 2, sharey=True)
    for y, line in enumerate(report.lines):
        values = line.numbers(name)
        left.plot(values, [y] * len(values), "o", color="#1f77b4", markersize=5, alpha=0.7)
        if values:
            left.plot([sum(values) / len(values)], [y], "|", color="black", markersize=16, markeredgewidth=2)
        if name in line.gains:
            gain = line.gains[name]
            right.plot([gain.low, gain.high], [y, y], color="black", linewidth=2)
            right.plot([gain.value], [y], "o", color="crimson", markersize=5)
    right.axvline(0, color="grey", linewidth=1)
    left.set_yticks(range(len(report.lines)), [f"{line.arm.name} ({len(line.runs)})" for line in report.lines])
    left.invert_yaxis()
    left.set_xlabel(f"{name} on {report.plan.split}: seeds and mean")
    right.set_xlabel(f"{name} minus that of\n{report.lines[0].arm.name}, {LEVEL} % interval")
    write_figure(figure, path)


def write_report(report: Report, folder: Path) -> str:
    """Write table.txt, table.csv, table.tex, table.md, runs.json and AP.png; returns the text."""
    text = as_text(report)
    runs = json.dumps([run for line in report.lines for run in line.runs], indent=1)
    for name, content in (("table.txt", text), ("table.csv", as_csv(report)), ("table.tex", as_latex(report)),
                          ("table.md", as_markdown(report)), ("runs.json", runs)):
        write_bytes(folder / name, content.encode())
    plot(report, folder / "AP.png")
    return text


def _cell(values: Sequence[float], pm: str = " ± ") -> str:
    pair = spread(values) if values else None
    if pair is None:
        return "-"
    return f"{pair[0]:.3f}" + ("" if math.isnan(pair[1]) else f"{pm}{pair[1]:.3f}")


def _gain(line: Line, name: str) -> str:
    gain = line.gains.get(name)
    if gain is None or not math.isfinite(gain.low):
        return "-"
    text = f"{gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"
    return f"**{text}**" if line.differs(name) else text


def _costs(line: Line) -> list[str]:
    seconds = [run["seconds"] for run in line.runs]
    return [f"{line.arm.parameters / 1e6:.2f}", f"{line.arm.flops / 1e9:.2f}",
            "-" if line.ms is None else f"{line.ms:.1f}",
            f"{sum(seconds) / len(seconds):.0f}" if seconds else "-"]
