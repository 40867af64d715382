"""Evaluate a model by COCO's protocol, and by others: `python val.py --weights runs/train/exp/weights/best.pt`.

The story: model -> images of a split -> detections in the original frame -> the twelve COCO metrics, table and plots.
`train.py` calls the same `evaluate` after every epoch, so a number means the same everywhere.
"""

import argparse
from contextlib import nullcontext

import torch

from data import load_index
from engine.evaluation.comparison.compare import Comparison
from engine.evaluation.comparison.weights_table import WeightsTable
from engine.evaluation.config import SPEED, VAL_UNSUPPORTED, ValConfig, is_results
from engine.evaluation.diagnosis.write import open_watch, report_diagnosis
from engine.evaluation.ensemble import evaluate_ensemble
from engine.evaluation.evaluate import Evaluation, evaluate, without_losses
from engine.evaluation.header import facts_of, header
from engine.evaluation.results import check_names, write_detections, write_results
from engine.evaluation.setup import open_loader, open_slices, predict_for, select_for
from engine.evaluation.sliced import evaluate_sliced
from engine.evaluation.speed import Speed, format_table, measure, speed_thresholds
from engine.evaluation.submission.submit import open_submission
from engine.evaluation.submission.target import find_target
from engine.inference.runtime import Runtime, load_runtime
from engine.inference.view_flags import merges_models
from models.plugins import load_plugins
from utils.distributed.group import Group
from utils.distributed.launch import join
from utils.errors import UserError, run_script
from utils.reporting.run_log import increment_dir
from utils.reporting.stage_clock import format_speed


def build_parser() -> argparse.ArgumentParser:
    return ValConfig.parser(__doc__.splitlines()[0], VAL_UNSUPPORTED)


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
    index = load_index(data_of(config, runtime), "val", max_pixels=config.max_pixels)
    size, thresholds = runtime.choose_size(config.imgsz), speed_thresholds(config, runtime)
    rows = measure(config, runtime, index)
    print(format_table(rows, runtime, size, thresholds))
    return rows


def data_of(config: ValConfig, runtime: Runtime) -> str:
    """The data of the flags, else those of the training."""
    data = config.data or runtime.trained.get("data")
    if not data:
        raise UserError(f"{runtime.path} does not say what data it was trained on; name it with --data", "no-data")
    return data


def evaluate_file(config: ValConfig, weights: str, group: Group, device: torch.device) -> Evaluation:
    """Evaluate one model; the main process writes and prints the results."""
    runtime = load_runtime(weights, config.device if group.is_single else device, half=config.half, trust=config.trust)
    runtime.check_suppression({"--iou-thres": config.iou_thres is not None})
    data = data_of(config, runtime)
    with group.local_rank0_first():
        index = load_index(data, config.task, single_cls=config.single_cls, max_pixels=config.max_pixels)
    protocol, thresholds = config.judged_by(), config.thresholds(runtime.thresholds)
    target = find_target(index) if config.submit else None
    if target and not config.slice:  # of windows each keeps as many as the model's own
        thresholds = target.thresholds(thresholds, config.max_det)
    facts = facts_of(config, runtime)
    head = header(config, runtime, index, thresholds, facts)
    if group.is_main:
        print(head, index.report.format(), sep="\n")
    check_names(config, index)
    select = select_for(runtime, index, config.single_cls, data)
    submission = open_submission(config, runtime, index, target, thresholds, group) if target else None
    if not target and config.max_det is None and thresholds.max_det != runtime.thresholds.max_det and group.is_main:
        print(f"up to {thresholds.max_det} detections per image are kept, as --protocol {' '.join(config.protocol)} "
              f"counts them (the model's own: {runtime.thresholds.max_det}; --max-det changes it)")
    loader = None if config.slice else open_loader(config, runtime, index, group, submission.done if submission else ())
    folder = None
    if group.is_main:
        folder = submission.folder if submission else increment_dir(config.project, config.name, config.exist_ok)
    watch = open_watch(runtime, index, loader, select, config.single_cls, data) if config.diagnose else None
    select, batches = (select, loader) if watch is None else (watch.select, watch)
    if config.slice:
        detector = open_slices(config, runtime, select, target.kept(config.max_det) if target else None)
        with submission.journalling() if submission else nullcontext():
            result = evaluate_sliced(detector, index, protocol, group=group,
                                     merged=submission.collector if submission else None,
                                     done=submission.done if submission else ())
    else:
        with submission.journalling(loader) if submission else nullcontext():
            result = evaluate(without_losses(predict_for(config, runtime)), select, batches,
                              submission.collector if submission else index, thresholds, device=runtime.device,
                              group=group)
        result.damaged = [path for part in group.gather(loader.damaged) or [] for path in part]
    result.index, result.facts = index, facts
    result.judge_by(protocol, index.names, group)
    if watch is not None:
        watch.gather(group)
    if folder:
        plots = not config.noplots and not (submission and submission.done)  # they show the images of this run alone
        table = write_results(result, index, folder, plots=plots, head=head)
        write_detections(config, result.found, index, folder)
        print(table)
        if watch is not None:
            print(report_diagnosis(config, runtime, result, index, watch, folder))
        print(f"speed: {format_speed(result.speed)} per image")
        print(f"results in {folder}")
        if submission:
            submission.finish(result.found, result.damaged)
    return result


if __name__ == "__main__":
    run_script(main, build_parser())
