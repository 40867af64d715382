"""Several results on one truth: judged by the same protocols, each compared with the first."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.evaluation.comparison.bootstrap import RESAMPLES, differences_to_first
from engine.evaluation.comparison.table import Facts, Row, format_differences, format_rows, to_csv, to_latex
from engine.evaluation.metrics.found import Found
from engine.evaluation.metrics.judge import Metrics, judge
from engine.evaluation.metrics.protocol import Protocol
from utils.files import write_bytes
from utils.truth import Truth


@dataclass(frozen=True)
class Candidate:
    """A model or results file, and what it found. facts: see `Facts`."""

    name: str
    found: Found
    facts: Facts = Facts()


@dataclass(frozen=True)
class Comparison:
    """The rows of a table, the metrics of each by protocol, the number of images, and the number and seed of resamples
    (0 resamples: none)."""

    rows: list[Row]
    protocols: list[Protocol]
    metrics: list[dict[str, Metrics]]
    images: int
    resamples: int
    seed: int

    @property
    def text(self) -> str:
        """The tables, and the differences to the first row."""
        how = f"{self.resamples} resamples of {self.images} images, the same for both, seed {self.seed}"
        parts = [format_rows(self.rows, self.protocols), format_differences(self.rows, self.protocols, how)]
        without = [p.name for p in self.protocols if len(self.rows) > 1 and self.resamples and not resamples_know(p)]
        parts += [f"no intervals for {' and '.join(without)}: not COCO's matching"] * bool(without)
        return "\n\n".join(part for part in parts if part)

    @property
    def csv(self) -> str:
        return to_csv(self.rows, self.protocols)

    @property
    def latex(self) -> str:
        return to_latex(self.rows, self.protocols)

    def write(self, folder: Path) -> None:
        """table.txt, table.csv and table.tex."""
        for name, content in (("table.txt", self.text + "\n"), ("table.csv", self.csv), ("table.tex", self.latex)):
            write_bytes(folder / name, content.encode())


def compare(truth: Truth, candidates: Sequence[Candidate], protocols: Sequence[Protocol], names: Sequence[str] = (),
            resamples: int = RESAMPLES, seed: int = 0) -> Comparison:
    """Judge each candidate by each protocol; with several, paired bootstrap of the differences to the first.

    names: of the classes, for messages. Equal arguments give equal tables.
    """
    founds = [candidate.found for candidate in candidates]
    metrics = [{p.name: judge(truth, found, names, p) for p in protocols} for found in founds]
    values = [{name: own.values for name, own in row.items()} for row in metrics]
    differences: list[dict] = [{} for _ in candidates]
    if resamples and len(candidates) > 1 and len(truth.image):
        for protocol in filter(resamples_know, protocols):
            gains = differences_to_first(protocol.truth(truth), founds, protocol, resamples, seed)
            for row, gain in zip(differences[1:], gains, strict=True):
                row[protocol.name] = gain
    rows = [Row(candidate.name, own, candidate.facts, gains, int((~candidate.found.seen).sum()))
            for candidate, own, gains in zip(candidates, values, differences, strict=True)]
    return Comparison(rows, list(protocols), metrics, len(truth.image_ids), resamples, seed)


def resamples_know(protocol: Protocol) -> bool:
    """Whether `differences_to_first` knows the protocol's rule."""
    return protocol.rule == "coco"


def short_names(paths: Sequence[str]) -> list[str]:
    """What a table calls files: as much of the end of each path as tells them apart, and a number where none does."""
    parts = [Path(path).with_suffix("").parts for path in paths]
    names = ["/".join(part[-depth:]) for part, depth in
             ((part, _depth(part, parts)) for part in parts)]
    return [f"{name} ({names[:k + 1].count(name)})" if names.count(name) > 1 else name for k, name in enumerate(names)]


def _depth(part: tuple[str, ...], parts: Sequence[tuple[str, ...]]) -> int:
    """Of runs/exp/weights/best.pt and runs/exp2/weights/best.pt the names are exp/weights/best, exp2/weights/best."""
    for depth in range(1, len(part) + 1):
        if sum(other[-depth:] == part[-depth:] for other in parts) == 1:
            return depth
    return 1
