"""Runs of train.py or val.py as a table: a row for each setting, mean and spread over its seeds.

    python -m benchmarks.table runs/train/* --csv runs.csv --latex runs.tex

Runs that differ in nothing but the seed (and where they were computed and written) are one row. --runs writes a CSV
with a row for each run, all digits: command, commit, numbers, parameters, epochs, seconds.
"""

import argparse
import csv
import io
import json
import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.evaluation.comparison.table import escaped
from utils.config import read_yaml
from utils.errors import UserError, run_script, short
from utils.files import write_bytes
from utils.parser import Parser

# settings that do not tell one experiment from another
ASIDE = {"seed", "command", "project", "name", "exist_ok", "resume", "allow_data_change", "device", "workers",
         "noplots", "logger", "save_period", "save_every_minutes", "nosave"}
NUMBERS = ("AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L")
FACTS = ("parameters", "epochs", "seconds")
MISSING = object()


@dataclass(frozen=True)
class Run:
    """A run that has ended. settings: flat, with those of the training that made the weights of a validation; seed:
    None where it is not known; values: of its protocol, None where undefined; facts: of metrics.json."""

    folder: Path
    settings: dict[str, Any]
    seed: int | None
    protocol: str
    values: dict[str, float | None]
    facts: dict[str, Any] = field(default_factory=dict)


def read_run(folder: Path) -> Run:
    """The run in a folder. Raises `UserError` where there is none that has ended."""
    if not folder.is_dir():
        raise UserError(f"{folder}: is no folder of a run", "not-a-run")
    path = folder / "metrics.json"
    if not path.is_file():
        reason = "has not ended yet, or was validated on no labels" if (folder / "args.yaml").is_file() else \
            "is not of train.py or val.py"
        raise UserError(f"{folder}: no metrics.json; it {reason}", "not-a-run")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        first = content["protocols"][0]
        values = {name: value if value is None else float(value) for name, value in first["values"].items()}
        facts, protocol = dict(content.get("run") or {}), str(first["protocol"])
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not written by train.py or val.py ({type(error).__name__}: {short(str(error))})",
                        "not-a-run") from None
    own = folder / "args.yaml"
    if own.is_file():
        settings = _flat(read_yaml(own))
    else:  # of val.py: the settings of the training, and what was evaluated
        trained = Path(str(facts.get("weights", ""))).parent.parent / "args.yaml"
        settings = _flat(read_yaml(trained)) if trained.is_file() else {"weights": facts.get("weights")}
        settings |= {f"val.{key}": facts.get(key) for key in ("data", "task")}
    telling = {key: value for key, value in settings.items() if key not in ASIDE}
    return Run(folder, telling, settings.get("seed"), protocol, values, facts)


def _flat(content: dict[str, Any], stem: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= _flat(value, f"{stem}{key}.") if isinstance(value, dict) else {f"{stem}{key}": value}
    return flat


def read_runs(folders: Sequence[str]) -> tuple[list[Run], list[str]]:
    """The runs, and why other folders are left out. Raises `UserError` where no run is left."""
    runs, left = [], []
    for folder in dict.fromkeys(folders):
        try:
            runs.append(read_run(Path(folder)))
        except UserError as error:
            left.append(str(error))
    if not runs:
        raise UserError("; ".join(left[:5]) + (f"; and {len(left) - 5} more" if len(left) > 5 else ""), "not-a-run")
    return runs, left


def grouped(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs with the same settings and protocol together, in order of their first."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(json.dumps([run.protocol, run.settings], sort_keys=True, default=str), []).append(run)
    return list(groups.values())


def labels(groups: Sequence[Sequence[Run]]) -> list[str]:
    """What tells each group from the others: its settings that differ between groups, else its model."""
    firsts = [group[0] for group in groups]
    keys = list(dict.fromkeys(key for run in firsts for key in run.settings))
    differing = [key for key in keys if len({str(run.settings.get(key, MISSING)) for run in firsts}) > 1]
    several = len({run.protocol for run in firsts}) > 1
    names = []
    for run in firsts:
        words = _words(run, differing) or _words(run, ("cfg", "weights", "data")) or ["as by default"]
        names.append(", ".join(words + [f"by {run.protocol}"] * several))
    return names


def _words(run: Run, keys: Sequence[str]) -> list[str]:
    return [f"{key} {short(value)}" for key in keys if (value := run.settings.get(key)) not in (None, "", False)]


def columns(runs: Sequence[Run]) -> list[str]:
    """The numbers that the table shows: COCO's main ones, otherwise all that the protocols have."""
    known = list(dict.fromkeys(name for run in runs for name in run.values))
    return [name for name in NUMBERS if name in known] or known


def spread(values: Sequence[Any]) -> tuple[float, float] | None:
    """Mean and standard deviation (of a sample; nan of one value); None where one is no number."""
    if any(not isinstance(value, int | float) or value < 0 for value in values):
        return None
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else math.nan


def rows(groups: Sequence[Sequence[Run]], names: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each group: label, seeds, and of each number and fact mean and deviation."""
    table = []
    for label, group in zip(labels(groups), groups, strict=True):
        row: dict[str, Any] = {"setting": label, "runs": len(group),
                               "seeds": " ".join(str(run.seed) for run in group if run.seed is not None)}
        row |= {name: spread([run.values.get(name) for run in group]) for name in names}
        row |= {name: spread([run.facts.get(name) for run in group]) for name in FACTS}
        table.append(row)
    return table


def _cell(value: tuple[float, float] | None, name: str, pm: str = " ± ") -> str:
    if value is None:
        return "-"
    mean, deviation = value
    if name == "parameters":
        return f"{mean / 1e6:.2f} M"
    if name in FACTS:
        return f"{mean:.0f}"
    return f"{mean:.3f}" + ("" if math.isnan(deviation) else f"{pm}{deviation:.3f}")


def as_text(table: Sequence[dict[str, Any]], names: Sequence[str]) -> str:
    """The rows in columns."""
    heads = ["setting", "runs", *names, *FACTS]
    lines = [heads, *([row["setting"], str(row["runs"]), *(_cell(row[name], name) for name in (*names, *FACTS))]
                      for row in table)]
    widths = [max(len(line[k]) for line in lines) for k in range(len(heads))]
    return "\n".join("  ".join(cell.ljust(size) if not k else cell.rjust(size)
                               for k, (cell, size) in enumerate(zip(line, widths, strict=True))) for line in lines)


def as_csv(table: Sequence[dict[str, Any]], names: Sequence[str]) -> str:
    """The rows with all digits, mean and standard deviation in columns of their own; empty where undefined."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["setting", "runs", "seeds", *(f"{name}{end}" for name in (*names, *FACTS) for end in ("", " sd"))])
    for row in table:
        pairs = [row[name] or ("", "") for name in (*names, *FACTS)]
        writer.writerow([row["setting"], row["runs"], row["seeds"],
                         *("" if number == "" or math.isnan(number) else repr(number) for pair in pairs
                           for number in pair)])
    return text.getvalue()


def as_latex(table: Sequence[dict[str, Any]], names: Sequence[str]) -> str:
    """The rows for booktabs."""
    lines = ["% \\usepackage{booktabs}", f"\\begin{{tabular}}{{l{'r' * (1 + len(names))}}}", "\\toprule",
             " & ".join(["Setting", "Runs", *map(escaped, names)]) + r" \\", "\\midrule"]
    lines += [" & ".join([escaped(row["setting"]), str(row["runs"]),
                          *(_cell(row[name], name, r" $\pm$ ").replace("-", "--") for name in names)]) + r" \\"
              for row in table]
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"]) + "\n"


def runs_csv(runs: Sequence[Run], names: Sequence[str]) -> str:
    """A row for each run, all digits."""
    text = io.StringIO()
    heads = ["folder", "command", "commit", "seed", "protocol", *names, "parameters", "epochs", "best_epoch", "seconds"]
    writer = csv.DictWriter(text, heads, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for run in runs:
        row = {"folder": run.folder, "seed": run.seed, "protocol": run.protocol, **run.facts,
               **{name: repr(value) for name in names if (value := run.values.get(name)) is not None and value >= 0}}
        writer.writerow({key: "" if value is None else value for key, value in row.items()})
    return text.getvalue()


def build_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = Parser(prog="python -m benchmarks.table", description=__doc__)
    parser.add_argument("folders", nargs="+", help="folders of runs of train.py or val.py")
    written = parser.group("what is written")
    written.add_argument("--csv", metavar="FILE", help="the table, all digits")
    written.add_argument("--latex", metavar="FILE", help="the table for booktabs")
    written.add_argument("--runs", metavar="FILE", help="CSV with a row for each run: command, commit, numbers")
    return parser


def main(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Print the table and write the files; returns the rows."""
    runs, left = read_runs(args.folders)
    names, groups = columns(runs), grouped(runs)
    table = rows(groups, names)
    print(as_text(table, names))
    for reason in left:
        print(f"left out: {reason}", file=sys.stderr)
    for path, content in ((args.csv, as_csv(table, names)), (args.latex, as_latex(table, names)),
                          (args.runs, runs_csv(runs, names))):
        if path:
            write_bytes(path, content.encode())
            print(f"written: {path}")
    return table


if __name__ == "__main__":
    run_script(main, build_parser())
