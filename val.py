"""Evaluate a model by COCO's protocol, and by others: `python val.py --weights runs/train/exp/weights/best.pt`.

The story: model -> images of a split -> detections in the original frame -> the twelve COCO metrics, table and plots.
`train.py` calls the same `evaluate` after every epoch, so a number means the same everywhere.
"""

import argparse

from utils.threads import shorten_spinning

if __name__ == "__main__":
    shorten_spinning()  # OpenMP reads it when PyTorch is imported

import torch

from data import load_index
from engine.evaluation.comparison.compare import Comparison
from engine.evaluation.comparison.weights_table import WeightsTable
from engine.evaluation.config import SPEED, ValConfig, is_results
from engine.evaluation.ensemble import evaluate_ensemble
from engine.evaluation.evaluate import Evaluation
from engine.evaluation.job import data_of, look, prepare, report
from engine.evaluation.results import write_detections, write_results
from engine.evaluation.speed import Speed, format_table, measure, speed_thresholds
from engine.inference.runtimes.open import load_runtime
from engine.inference.view_flags import merges_models
from models.plugins import load_plugins
from utils.distributed.group import Group
from utils.distributed.launch import join
from utils.errors import UserError, run_script
from utils.reporting.run_log import increment_dir


def build_parser() -> argparse.ArgumentParser:
    return ValConfig.parser(__doc__.splitlines()[0], "val")


def main(args: argparse.Namespace) -> Evaluation | Comparison | list[Speed] | None:
    """Evaluate each of `--weights`, or measure its speed; prints the tables and returns the last one's result."""
    config = ValConfig.from_args(args).check()
    load_plugins(config.plugin)
    group, device = join(config.device)
    with group.session():
        if config.task == SPEED:
            return [measure_file(config, weights, group) for weights in config.weights][-1]
        return evaluate_all(config, group, device)


def evaluate_all(config: ValConfig, group: Group, device: torch.device) -> Evaluation | Comparison | None:
    """Evaluate each of `--weights`, and all as one with `--merge`; of several, the main process writes and prints one
    table. Returns the last evaluation, of results files alone their table."""
    table, results = WeightsTable(config), []
    for place, weights in enumerate(config.weights):
        if not is_results(weights):
            results.append(evaluate_file(config, weights, group, device))
            config = table.add(place, results[-1])
    if config.merge and merges_models(config) and group.is_main:
        results.append(report_ensemble(config, results))
        table.add_ensemble(results[-1].found)
    if not (config.wants_table and group.is_main):
        return results[-1] if results else None
    comparison, folder = table.finish()
    print(f"\n{comparison.text}\n\ntable.txt, table.csv and table.tex in {folder}")
    return results[-1] if results else comparison


def report_ensemble(config: ValConfig, results: list[Evaluation]) -> Evaluation:
    """Judge all models as one, whose detections are merged by `--merge`; writes and prints the results."""
    index = results[0].index
    result = evaluate_ensemble(results, index, config.merge, config.max_det)
    result.judge_by(config.judged_by(), index.names)
    folder = increment_dir(config.project, f"{config.name}-ensemble", config.exist_ok)
    head = f"ensemble of {len(results)} models, merged by {config.merge}: {', '.join(config.weights)}"
    table = write_results(result, index, folder, plots=not config.noplots, head=head)
    write_detections(config, result.found, index, folder)
    print(f"{head}\n{table}\nresults in {folder}")
    return result


def measure_file(config: ValConfig, weights: str, group: Group) -> list[Speed]:
    """Print what an image costs, for `--task speed`."""
    if not group.is_single:
        raise UserError("--task speed: measures one process; start it without torchrun", "flag-conflict")
    runtime = load_runtime(weights, config.device, half=config.half, trust=config.trust)
    runtime.check_suppression({"--iou-thres": config.iou_thres is not None})
    runtime.check_limits(config.conf_thres, config.max_det)
    index = load_index(data_of(config, runtime), "val", max_pixels=config.max_pixels)
    size, thresholds = runtime.choose_size(config.imgsz), speed_thresholds(config, runtime)
    rows = measure(config, runtime, index)
    print(format_table(rows, runtime, size, thresholds))
    return rows


def evaluate_file(config: ValConfig, weights: str, group: Group, device: torch.device) -> Evaluation:
    """Evaluate one model; the main process writes and prints the results."""
    job = prepare(config, weights, group, device)
    result = look(job)
    if group.is_main:
        report(job, result)
    return result


if __name__ == "__main__":
    run_script(main, build_parser())
