"""One model on one split, as `val.py` evaluates it: prepared, looked at, reported."""

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from data import Index, load_index
from data.labels.records import RecordTable
from data.loading.loader import Loader
from engine.evaluation.comparison.table import Facts
from engine.evaluation.config import ValConfig
from engine.evaluation.diagnosis.evidence import Watch
from engine.evaluation.diagnosis.write import open_watch, report_diagnosis
from engine.evaluation.evaluate import Evaluation, evaluate, without_losses
from engine.evaluation.header import facts_of, header
from engine.evaluation.results import check_names, write_detections, write_results
from engine.evaluation.setup import open_loader, open_slices, predict_for, select_for
from engine.evaluation.sliced import evaluate_sliced
from engine.evaluation.submission.submit import Submission, open_submission
from engine.evaluation.submission.target import Target, find_target
from engine.inference.hints import tile_hint
from engine.inference.runtimes.base import Runtime
from engine.inference.runtimes.open import load_runtime
from utils.distributed.group import Group
from utils.errors import UserError
from utils.reporting.run_log import increment_dir
from utils.reporting.run_record import given_command, revision
from utils.reporting.stage_clock import format_speed
from utils.select import SelectConfig, Selector


@dataclass(frozen=True)
class Job:
    """What is evaluated and how. select: with labels of the dataset; head: the lines above the numbers; folder: of
    results, None where this is not the main process; loader: None where images are sliced; watch: with --diagnose."""

    config: ValConfig
    group: Group
    runtime: Runtime
    index: Index
    thresholds: SelectConfig
    select: Selector
    facts: Facts
    head: str
    folder: Path | None
    loader: Loader | None
    watch: Watch | None
    submission: Submission | None
    target: Target | None


def data_of(config: ValConfig, runtime: Runtime) -> str:
    """The data of the flags, else those of the training."""
    data = config.data or runtime.trained.get("data")
    if not data:
        raise UserError(f"{runtime.path} does not say what data it was trained on; name it with --data", "no-data")
    return data


def prepare(config: ValConfig, weights: str, group: Group, device: torch.device) -> Job:
    """Open model and data, and refuse before the work what could not be written after it (`UserError`)."""
    runtime = load_runtime(weights, config.device if group.is_single else device, half=config.half, trust=config.trust)
    runtime.check_suppression({"--iou-thres": config.iou_thres is not None})
    runtime.check_limits(config.conf_thres, config.max_det)
    data = data_of(config, runtime)
    with group.local_rank0_first():
        index = load_index(data, config.task, single_cls=config.single_cls, max_pixels=config.max_pixels)
    thresholds, target = config.thresholds(runtime.thresholds), find_target(index) if config.submit else None
    if target and not config.slice:  # of windows each keeps as many as the model's own
        thresholds = target.thresholds(thresholds, config.max_det)
    facts = facts_of(config, runtime)
    head = header(config, runtime, index, thresholds, facts)
    if group.is_main:
        print(head, index.report.format(), sep="\n")
        if not target and config.max_det is None and thresholds.max_det != runtime.thresholds.max_det:
            print(f"up to {thresholds.max_det} detections per image are kept, as --protocol "
                  f"{' '.join(config.protocol)} counts them (the model's own: {runtime.thresholds.max_det}; --max-det "
                  f"changes it)")
        hint = "" if config.slice else tile_hint(runtime, int(RecordTable.from_records(index.records).sizes.max()))
        if hint:
            print(hint)
    check_names(config, index)
    select = select_for(runtime, index, config.single_cls, data)
    submission = open_submission(config, runtime, index, target, thresholds, group) if target else None
    loader = None if config.slice else open_loader(config, runtime, index, group, submission.done if submission else ())
    watch = open_watch(runtime, index, loader, select, config.single_cls, data) if config.diagnose else None
    folder = None
    if group.is_main:
        folder = submission.folder if submission else increment_dir(config.project, config.name, config.exist_ok)
    return Job(config, group, runtime, index, thresholds, select, facts, head, folder, loader, watch, submission,
               target)


def look(job: Job) -> Evaluation:
    """Find objects in all images, whole or sliced, and judge them by the protocol that was asked for."""
    config, index, group, loader, submission = job.config, job.index, job.group, job.loader, job.submission
    protocol = config.judged_by()
    if loader is None:
        kept = job.target.kept(config.max_det) if job.target else None
        detector = open_slices(config, job.runtime, job.select, kept)
        with submission.journalling() if submission else nullcontext():
            result = evaluate_sliced(detector, index, protocol, group=group,
                                     merged=submission.collector if submission else None,
                                     done=submission.done if submission else ())
    else:
        select, batches = (job.select, loader) if job.watch is None else (job.watch.select, job.watch)
        with submission.journalling(loader) if submission else nullcontext():
            result = evaluate(without_losses(predict_for(config, job.runtime)), select, batches,
                              submission.collector if submission else index, job.thresholds,
                              device=job.runtime.device, group=group)
        result.damaged = [path for part in group.gather(loader.damaged) or [] for path in part]
    result.index, result.facts = index, job.facts
    result.judge_by(protocol, index.names, group)
    if job.watch is not None:
        job.watch.gather(group)
    return result


def record(job: Job) -> dict[str, Any]:
    """What was evaluated, for `python -m benchmarks.table`."""
    return {"command": given_command("val", job.config), "commit": revision(), "weights": str(job.runtime.path),
            "data": str(data_of(job.config, job.runtime)), "task": job.config.task, "parameters": job.facts.params}


def report(job: Job, result: Evaluation) -> None:
    """Write and print the results. Runs on the main process."""
    config, folder, submission = job.config, job.folder, job.submission
    plots = not config.noplots and not (submission and submission.done)  # they show the images of this run alone
    table = write_results(result, job.index, folder, plots=plots, head=job.head, run=record(job))
    write_detections(config, result.found, job.index, folder)
    print(table)
    if job.watch is not None:
        print(report_diagnosis(config, job.runtime, result, job.index, job.watch, folder))
    print(f"speed: {format_speed(result.speed)} per image")
    print(f"results in {folder}")
    if submission:
        submission.finish(result.found, result.damaged)
