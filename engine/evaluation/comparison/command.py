"""Results files judged without a model: `python -m engine.evaluation results.json [more.json ...] annotations.json`."""

from dataclasses import dataclass
from pathlib import Path

from engine.evaluation.comparison.bootstrap import RESAMPLES
from engine.evaluation.comparison.compare import Candidate, compare, short_names
from engine.evaluation.comparison.results_reader import Results, read_results
from engine.evaluation.metrics.judge import Metrics
from engine.evaluation.metrics.protocol import CHANGED, PROTOCOLS
from engine.evaluation.metrics.table import format_size_table, format_table
from engine.evaluation.metrics.voc import format_voc_table
from engine.evaluation.protocol_flags import PROTOCOL_RULES, chosen_protocols, eval_iou_option, size_bins_option
from utils.cli import Rule, check_flags, not_empty, number
from utils.commands import command
from utils.errors import UserError
from utils.files import write_bytes
from utils.options import Options, option
from utils.truth import Truth

CONFIRMED = 100_000  # detections up to which pycocotools takes seconds
RULES = [*not_empty(("csv", "latex")),
         *(Rule(flag, lambda config, _: len(config.files) > 2, "compares several results files; give more than one, or "
                "drop the flag") for flag in ("bootstrap", "seed")),
         *PROTOCOL_RULES,
         Rule("task", lambda config, _: not config.truth_is_file, "chooses the split of a data set; an annotation file "
              "is one split")]


@dataclass(frozen=True)
class JudgeConfig(Options):
    """The settings of `python -m engine.evaluation`. files: results, and last the annotations or the data."""

    GROUPS = {"task": "numbers", "bootstrap": "comparison of several files", "csv": "what is written"}

    files: tuple[str, ...] = ()
    task: str = option("val", "the split, where the last argument is a data set", metavar="SPLIT",
                       choices=("train", "val", "test"))
    protocol: tuple[str, ...] = option(("coco",), f"one or several of {', '.join(PROTOCOLS)}", nargs="+",
                                       choices=tuple(PROTOCOLS), metavar="NAME")
    size_bins: tuple[float, ...] | None = size_bins_option()
    eval_iou: tuple[float, ...] | None = eval_iou_option()
    bootstrap: int = option(RESAMPLES, f"resamples for the intervals of differences, 0: none; default {RESAMPLES}",
                            type=number(int, 0, 100_000), metavar="N")
    seed: int = option(0, "of the resamples", type=number(int, 0), metavar="N")
    csv: str = option("", "write the table as CSV", metavar="FILE")
    latex: str = option("", "write the table for LaTeX (booktabs)", metavar="FILE")
    confirm: bool = option(False, f"pycocotools confirms also more than {CONFIRMED:,} detections")

    @property
    def truth_is_file(self) -> bool:
        """Whether the last argument is an annotation file, not a data set."""
        return bool(self.files) and Path(self.files[-1]).suffix.lower() == ".json"

    def check(self) -> "JudgeConfig":
        """Validate; returns itself."""
        check_flags(self, RULES)
        if len(self.files) < 2:
            raise UserError("give results files and last the annotation file or data set: "
                            f"{command('engine.evaluation')} results.json annotations.json", "missing-argument")
        return self


def judge_files(config: JudgeConfig) -> None:
    """Print the numbers of each results file, and of several what they differ by; writes the tables asked for."""
    truth, names = _read_truth(config)
    paths = [Path(file) for file in config.files[:-1]]
    results = [read_results(path, truth, names) for path in paths]
    protocols = chosen_protocols(config)
    for note in [note for one in results for note in one.notes]:
        print(note)
    candidates = [Candidate(name, one.found) for name, one in zip(short_names(config.files[:-1]), results, strict=True)]
    comparison = compare(truth, candidates, protocols, names, config.bootstrap, config.seed)
    if len(results) > 1:
        print(comparison.text)
    else:
        print("\n\n".join(_tables(metrics, names) for metrics in comparison.metrics[0].values()))
    for one, judged in zip(results, comparison.metrics, strict=True):
        for metrics in judged.values():
            if metrics.protocol.rule == "coco":
                _confirm(one, truth, metrics, config.confirm)
    for file, content in ((config.csv, comparison.csv), (config.latex, comparison.latex)):
        if file:
            write_bytes(file, content.encode())
            print(f"written: {file}")


def _tables(metrics: Metrics, names: list[str]) -> str:
    """What one protocol says of one results file; COCO's needs no title."""
    if metrics.voc:
        return format_voc_table(metrics.voc, names)
    parts = [metrics.protocol.title] * (metrics.protocol.name != "coco") + [format_table(metrics, names)]
    if metrics.protocol.name == CHANGED:
        parts.append("\n" + format_size_table(metrics, names))
    return "\n".join(parts).rstrip("\n")


def _read_truth(config: JudgeConfig) -> tuple[Truth, list[str]]:
    if config.truth_is_file:
        from data.truth import truth_of_file

        return truth_of_file(Path(config.files[-1]))
    from data import load_index

    index = load_index(config.files[-1], config.task)
    print(index.report.format())
    return index.truth, index.names


def _confirm(results: Results, truth: Truth, metrics: Metrics, always: bool) -> None:
    """Print what pycocotools says of the numbers of a protocol of COCO's rule."""
    from engine.evaluation.metrics.confirm import compare_with_pycocotools, same_by_pycocotools

    if len(results.found) > CONFIRMED and not always:
        print(f"{results.path.name}: not confirmed by pycocotools, which takes minutes for {len(results.found):,} "
              f"detections; --confirm does it")
        return
    lines = (compare_with_pycocotools(truth, results.found, metrics) if metrics.protocol.name == "coco"
             else [same_by_pycocotools(truth, results.found, metrics)])
    for line in lines:
        print(f"{results.path.name}: {line}")
