"""The report: a table by kind, and the failures by their place in the code."""

import json
import platform
import re
import shlex
import sys
from collections import Counter, defaultdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from benchmarks.fuzzing.kind import FAILURES, Outcome

SHOWN = 200  # places of failures in the page


class Report:
    """Outcomes as they come in."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []

    def add(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)

    @property
    def failures(self) -> list[Outcome]:
        return [o for o in self.outcomes if o.failed]

    def rows(self) -> list[list[Any]]:
        """Per kind and in all: inputs, ok, refused, failures of each class, slowest, most memory."""
        by_kind = defaultdict(list)
        for outcome in self.outcomes:
            by_kind[outcome.kind].append(outcome)
        return [_row(name, found) for name, found in [*sorted(by_kind.items()), ("all", self.outcomes)]]

    def table(self) -> str:
        """Markdown."""
        head = ["kind", "inputs", "ok", "refused", *FAILURES, "slowest, s", "most memory, MiB"]
        lines = [head, ["---"] * len(head), *self.rows()]
        return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)

    def places(self) -> str:
        """Failures by class, kind and place, the most frequent first."""
        counts = Counter((o.place, o.result, o.kind, _first(o.text)) for o in self.failures)
        grouped: dict[tuple[str, str, str], list[Any]] = {}
        for (place, result, kind, text), count in counts.most_common():
            entry = grouped.setdefault((place, result, kind), [0, text])
            entry[0] += count
        lines = [
            f"| {count} | {kind} | {result} | `{place}` | {text} |"
            for (place, result, kind), (count, text) in sorted(grouped.items(), key=lambda g: -g[1][0])[:SHOWN]
        ]
        return "\n".join(
            ["| inputs | kind | failure | place | for instance |", "| --- | --- | --- | --- | --- |", *lines]
        )

    def refusals(self) -> dict[str, dict[str, int]]:
        """By kind, how often each message was printed, with numbers and names masked."""
        found: dict[str, Counter] = defaultdict(Counter)
        for outcome in self.outcomes:
            if outcome.result == "refused":
                found[outcome.kind][re.sub(r"[\d./]+|'[^']*'", "#", outcome.text)[:80]] += 1
        return {kind: dict(counts.most_common(20)) for kind, counts in found.items()}

    def write(self, folder: Path, seconds: float) -> None:
        """fuzz.json and fuzz.md."""
        folder.mkdir(parents=True, exist_ok=True)
        command = shlex.join(["python", "-m", "benchmarks.fuzz", *sys.argv[1:]])
        versions = {
            "python": platform.python_version(), "torch": torch.__version__, "opencv": cv2.__version__,
            "numpy": np.__version__,
        }
        content = {
            "command": command, "versions": versions, "date": f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M}",
            "seconds": round(seconds), "rows": self.rows(), "refusals": self.refusals(),
            "failures": [o.plain() for o in self.failures],
        }
        (folder / "fuzz.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
        parts = [
            "# Spoiled inputs", "",
            f"`{command}`, {content['date']}, {seconds / 60:.0f} minutes; "
            + ", ".join(f"{k} {v}" for k, v in versions.items())
            + ".",
            "",
            INTRODUCTION,
            "",
            self.table(),
        ]
        if self.failures:
            parts += ["", "## Failures", "", self.places()]
        (folder / "fuzz.md").write_text("\n".join(parts) + "\n", encoding="utf-8")


INTRODUCTION = """An input passes when the program succeeds or refuses it with one sentence. Failures: `traceback`, any
other exception; `hang`, more processor time than its kind may take; `bomb`, more memory; `crash`, the process ended;
`wrong`, it succeeded and lost something without a word, gave other values than were saved, or printed an escape."""


def _row(name: str, found: list[Outcome]) -> list[Any]:
    results = Counter(o.result for o in found)
    slowest, most = max((o.seconds for o in found), default=0), max((o.megabytes for o in found), default=0)
    return [
        name, len(found), results["ok"], results["refused"], *(results[f] for f in FAILURES), f"{slowest:.1f}",
        f"{most:.0f}",
    ]


def _first(text: str) -> str:
    line = (text.splitlines() or [""])[0][:160]
    return "".join(c if c.isprintable() else "?" for c in line).replace("|", "/")
