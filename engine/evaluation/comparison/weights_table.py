"""One table of all `--weights` of `val.py`: checkpoints, exported files, and results files of other programs."""

from dataclasses import replace
from pathlib import Path

from data import Index, load_index
from engine.evaluation.comparison.compare import Candidate, Comparison, compare, short_names
from engine.evaluation.comparison.results_reader import read_results
from engine.evaluation.comparison.table import Facts
from engine.evaluation.config import ValConfig, count_models, is_results
from engine.evaluation.evaluate import Evaluation
from engine.evaluation.metrics.found import Found
from utils.errors import UserError
from utils.reporting.run_log import increment_dir


class WeightsTable:
    """Collects what each of `--weights` finds on the same images.

    Results files are read as soon as the data are known, so that a bad one is refused before the next model runs.
    Raises `UserError` for them, and where two models were not evaluated on the same images.
    """

    def __init__(self, config: ValConfig) -> None:
        self.config, self.names = config, short_names(config.weights)
        self._found: dict[int, tuple[Found, Facts]] = {}
        self.index: Index | None = None
        if config.data and config.wants_table:
            self._open(load_index(config.data, config.task, single_cls=config.single_cls,
                                  max_pixels=config.max_pixels))
        elif not count_models(config.weights):
            raise UserError(f"{config.weights[0]}: results do not say what data they are of; name it with --data",
                            "no-data")

    def _open(self, index: Index) -> None:
        self.index = index
        for k, name in enumerate(self.config.weights):
            if is_results(name):
                results = read_results(Path(name), index.truth, index.names)
                self._found[k] = results.found, Facts()
                for note in results.notes:
                    print(note)

    def add(self, place: int, result: Evaluation) -> ValConfig:
        """Add the model at a position of `--weights`; returns the settings of the next one: on the same data."""
        if self.config.wants_table:
            if self.index is None:
                self._open(result.index)
            truth, own = self.index.truth, result.truth
            if (own.image_ids, own.category_ids, len(own.image)) != (truth.image_ids, truth.category_ids,
                                                                     len(truth.image)):
                raise UserError(f"{self.config.weights[place]}: was evaluated on other images than "
                                f"{self.config.weights[0]}; name one data set with --data", "other-data")
            speed = sum(ms for stage, ms in result.speed.items() if stage != "load")
            facts = result.facts
            self._found[place] = self._seen(result), Facts(facts.params, facts.flops, facts.size, speed)
        return self.config.replace(data=self.config.data or str(result.index.source.yaml))

    def _seen(self, result: Evaluation) -> Found:
        """The detections, where images that could not be decoded are none that were looked at."""
        damaged = set(result.damaged)
        if not damaged:
            return result.found
        seen, place = result.found.seen.copy(), {record: k for k, record in enumerate(result.truth.record_ids)}
        seen[[place[record.image_id] for record in result.index.records if record.path in damaged]] = False
        return replace(result.found, seen=seen)

    def add_ensemble(self, found: Found) -> None:
        """Add what all models find together, as the last row."""
        self.names.append("ensemble")
        self._found[len(self.names) - 1] = found, Facts()

    def finish(self) -> tuple[Comparison, Path]:
        """Judge all by each `--protocol` and write table.txt, table.csv and table.tex; returns the table and where."""
        config = self.config
        candidates = [Candidate(name, *self._found[k]) for k, name in enumerate(self.names)]
        comparison = compare(self.index.truth, candidates, config.all_protocols(), self.index.names, config.bootstrap)
        folder = increment_dir(config.project, f"{config.name}-table", config.exist_ok)
        comparison.write(folder)
        return comparison, folder
