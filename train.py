"""Train a detector: `python train.py` trains yolov8n-assn on the built-in data; --cfg, --data and --weights change it.

The story: settings -> data -> model -> optimiser -> epochs of (train, validate, save) -> final evaluation of best.pt.
Results lie in runs/train/exp, exp2, ... On several GPUs: `torchrun --nproc-per-node 4 train.py ...`.
"""

import argparse
import shlex
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from data import Index
from data.augment.plan import AugmentConfig
from data.loading.loader import Loader
from data.object_sizes import object_sizes
from engine.evaluation.evaluate import evaluate, without_losses
from engine.evaluation.results import write_results
from engine.optim.optimizer import freeze
from engine.training.autobatch import is_out_of_memory
from engine.training.evolve import search
from engine.training.fingerprint import data_changed, fingerprint
from engine.training.inputs import fixed_weights, open_loaders, open_splits, open_train, weights_by_result
from engine.training.multiscale import to_device
from engine.training.nonfinite import BufferGuard, check_finite, meet_bad_batch, read_losses
from engine.training.recipe import Recipe
from engine.training.replay import replay_file
from engine.training.settings import check_settings, make_parser, save_args, settings_of
from engine.training.setup import fitting_batch, make_training, recipe_to_evolve, start_model, stored_model
from engine.training.signals import Stopped, StopRequest
from engine.training.state import (
    Training,
    Unread,
    end_run,
    epoch_row,
    find_run,
    has_ended,
    is_tired,
    judge,
    left_out_words,
    restore_run,
    save_run,
    weights_of,
)
from engine.training.step import learn, step
from models import build_model
from models.plugins import add_plugin_flag, load_plugins
from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.device import describe, memory_gb, seed_everything
from utils.distributed.group import Group
from utils.distributed.launch import join, launched
from utils.errors import LostWorker, UserError, lost_worker, run_script
from utils.reporting import plots
from utils.reporting import run_log as report
from utils.reporting.trackers import Logger, make_loggers
from utils.structures import Batch

AUGMENT_WORDS = [f.name for f in fields(AugmentConfig)]
PICTURED_BATCHES = 3


@dataclass
class Job:
    """What a run works with and does not change."""

    args: argparse.Namespace
    folder: Path
    train: Index
    held: Index
    fixed_weights: np.ndarray | None  # how often images are shown, whatever is learned
    loader: Loader
    val_loader: Loader
    loggers: list[Logger]
    stop: StopRequest
    told: Callable[[float, int], None]


def main(args: argparse.Namespace) -> Path:
    """Train as told, search hyper-parameters, or replay a bad batch; returns the folder of results."""
    check_settings(args, launched())
    report.check_name(args.name)
    load_plugins(args.plugin)  # of the flag alone, in a resumed run too: a checkpoint never names code to run
    if args.replay:
        print(*replay_file(args.replay), sep="\n")
        return Path(args.replay).parent
    group, device = join(args.device)
    with group.session():
        if args.evolve:
            return search(args, group, recipe_to_evolve(args, AUGMENT_WORDS),
                          lambda own, recipe, told: train(own, group, device, recipe, told)[1].best)
        return train(args, group, device)[0]


def train(args: argparse.Namespace, group: Group, device: torch.device, recipe: Recipe | None = None,
          told: Callable[[float, int], None] = lambda fitness, epoch: None) -> tuple[Path, Training]:
    """One training from its settings to its final table; returns its folder and what it ended as.

    recipe: instead of the family's; told(fitness, epoch) hears of each validation.
    """
    path, stored = group.broadcast(find_run(args.resume, args.project) if group.is_main else None)
    if has_ended(stored) and not args.resume:
        print(f"started anew, but the run in {path.parent.parent} had ended: nothing is left to do")
        group.shutdown()
        sys.exit()
    if stored:
        args = settings_of(stored, args, path)
    seed_everything(args.seed, device)
    train_index, held = open_splits(args, group, stored)
    data = {"train": fingerprint(train_index), "val": fingerprint(held)}
    changed = bool(stored) and data_changed(stored["train"].get("data", {}), data, args.data, args.allow_data_change)
    model, recipe = stored_model(stored, args.data) if stored else start_model(
        args, train_index.names, AUGMENT_WORDS, lambda imgsz: object_sizes(train_index.records, imgsz), recipe)
    frozen = freeze(model, args.freeze)
    if frozen:
        print(f"--freeze: {len(frozen)} parameter tensors stay as they are")
    model = model.to(device, memory_format=torch.channels_last)
    if args.batch_size == -1:
        args.batch_size = fitting_batch(args, recipe, model, device, len(train_index), group) * group.world
    if recipe.augment.get("copy_paste"):
        train_index = open_train(args, polygons=True)
    weights = fixed_weights(args, train_index)
    loader, val_loader = open_loaders(args, AugmentConfig(**recipe.augment), train_index, held, weights,
                                      max(model.strides), group, device)
    run = make_training(args, recipe, model, group, device, len(loader))
    folder = path.parent.parent if stored else group.broadcast(
        report.increment_dir(args.project, args.name, args.exist_ok) if group.is_main else None)
    run.data = data
    if stored:
        restore_run(run, stored, whole_epoch=changed)
    settings = {**vars(args), **vars(recipe)}
    settings.pop("given", None)
    loggers = make_loggers(args.logger, folder, settings, folder.name, resume=bool(stored)) if group.is_main else []
    with StopRequest() as stop:
        job = Job(args, folder, train_index, held, weights, loader, val_loader, loggers, stop, told)
        if group.is_main:
            introduce(job, run)
        keep_going(job, run)
    if loader.damaged:
        print(f"{len(loader.damaged)} images could not be decoded and taught nothing, the first: {loader.damaged[0]}")
    finish(job, run)
    return folder, run


def introduce(job: Job, run: Training) -> None:
    """Say what is about to happen and write down the settings."""
    args, folder = job.args, job.folder
    print(job.train.report.format(), job.held.report.format(), sep="\n")
    count = sum(p.numel() for p in run.model.parameters())
    processes = f" in {run.group.world} processes" if run.group.world > 1 else ""
    print(f"{args.cfg or args.weights or 'yolov8n-assn'}: {count:,} parameters, {run.model.num_classes} classes, on "
          f"{describe(run.device)}{processes} in {str(run.amp or torch.float32).removeprefix('torch.')}; "
          f"{len(job.train)} images train, {len(job.held)} validate, batches of {args.batch_size}; results in {folder}")
    (folder / "weights").mkdir(parents=True, exist_ok=True)
    save_args(args, run.recipe, folder / "args.yaml")
    if not args.noplots:
        plots.plot_labels(job.train.records, job.train.names, folder / "labels.jpg")


def keep_going(job: Job, run: Training) -> None:
    """`fit`, and what to do when it is told to stop: save where that is possible, and say how to go on."""
    resume = f"to go on: python train.py --resume {shlex.quote(str(job.folder))}"
    try:
        fit(job, run)
    except Stopped as stopped:
        if run.group.is_main and not job.args.nosave:
            save(job, run, best=False)
            print(f"\nstopped in epoch {run.epoch + 1} after {run.batch} of {len(job.loader)} batches, saved; {resume}")
        sys.exit(stopped.code)
    except KeyboardInterrupt:
        if (job.folder / "weights" / "last.pt").is_file():
            print(f"\nstopped at once; {resume}")
        raise
    except (RuntimeError, LostWorker) as error:
        lost = lost_worker(error)
        if lost:
            way = resume if (job.folder / "weights" / "last.pt").is_file() else "then start it again"
            raise UserError(f"{lost}; {way}") from None
        if not is_out_of_memory(error):
            raise
        parts = "" if run.group.is_single else " (batches are computed in parts by a process alone, not by several)"
        raise UserError(f"--batch-size {job.args.batch_size} at --imgsz {max(job.args.imgsz)} does not fit into the "
                        f"memory of {describe(run.device)}{parts}; lower one of them, or let --batch-size -1 choose"
                        ) from None


def fit(job: Job, run: Training) -> None:
    """All epochs: train, validate, save; ends early where nothing improves for `--patience` epochs."""
    args, main = job.args, run.group.is_main
    log = report.CsvLog(job.folder / "results.csv", from_epoch=run.epoch)
    board = report.Board(job.folder, from_epoch=run.epoch) if main else None
    began = time.perf_counter() - float(log.rows[-1].get("time") or 0 if log.rows else 0)  # a resumed run goes on
    while not run.ended:
        if run.epoch >= args.epochs - args.close_mosaic:
            job.loader.close_mosaic()
        if args.image_weights and run.class_ap:
            job.loader.set_weights(weights_by_result(job.train, run.class_ap, job.fixed_weights))
        job.loader.set_epoch(run.epoch, run.batch)
        left_out = run.left_out
        row = {"epoch": run.epoch + 1, "time": 0.0, **train_epoch(job, run), "skipped_steps": run.left_out}
        if run.left_out > left_out:
            print(left_out_words(run))
        run.share_statistics()
        last = run.epoch + 1 == args.epochs
        if last or ((run.epoch + 1) % args.val_interval == 0 and not args.noval):
            row.update(validate(job, run))
        run.epoch, run.batch, run.meter = run.epoch + 1, 0, report.LossMeter()
        row.update(time=time.perf_counter() - began, lr=run.optimizer.param_groups[0]["lr"])
        better = judge(run, row, args.save_best_by)
        run.ended = last or is_tired(args, run, row)
        if main:
            log.append(row)
            for logger in (board, *job.loggers):
                logger.add(row, run.epoch)
            if run.ended or not args.nosave:
                save(job, run, better or args.nosave or (last and not run.best_epoch))
        if "metrics/AP" in row:
            job.told(run.score, run.epoch)
        if run.ended and not last:
            print(f"stopping: no better result for {args.patience} epochs (--patience) since epoch {run.best_epoch}")
    if board:
        board.close()


def train_epoch(job: Job, run: Training) -> dict[str, float]:
    """What is left of an epoch; returns its mean losses per image, images per second and peak memory in GiB."""
    args, batches, since_step, saved = job.args, len(job.loader), 0, time.monotonic()
    guard = BufferGuard(run.model) if args.skip_bad_batches else None
    run.model.train()
    bar = tqdm(job.loader, initial=run.batch, total=batches, dynamic_ncols=True, unit="batch",
               disable=not run.group.is_main)
    for batch in bar:
        steps = run.schedule.apply(run.optimizer, run.epoch * batches + run.batch, run.epoch)
        if run.epoch == 0 and run.batch < PICTURED_BATCHES and run.group.is_main and not args.noplots:
            plots.plot_batch(batch.images, batch.targets, job.folder / f"train_batch{run.batch}.jpg", run.model.names)
        images, targets, size = to_device(args, run, batch)
        # an epoch ends with a step, so that a checkpoint holds it all
        due = since_step + 1 >= steps or run.batch + 1 == batches
        if guard:
            guard.remember()
        names, values = learn(run, images, targets, due, fresh=not since_step)
        since_step += 1
        run.unread.append(Unread(names, values, len(batch), run.batch, size))
        if len(run.unread) >= run.read_every or run.batch + 1 == batches:  # before the step is taken
            if not all_finite(job, run, guard, batch):
                since_step, due = 0, False
            bar.set_description(report.progress_line(run.epoch, args.epochs, memory_gb(run.device), run.meter,
                                                     batch.targets, images.shape[-1]), refresh=False)
        run.batch += 1
        if due:
            step(run)
            since_step = 0
            saved = between_steps(job, run, saved)
    all_finite(job, run)  # the last step may have been left out
    return epoch_row(run)


def all_finite(job: Job, run: Training, guard: BufferGuard | None = None, latest: Batch | None = None) -> bool:
    """Read the losses that were not read yet: False where one is not finite and may be left out, in all processes
    alike. Without a guard, and where no more may be left out, that is a `UserError`. latest: batch `run.batch`."""
    bad = read_losses(run)
    if not run.group.any(bad is not None):
        return True
    if bad and (latest is None or bad.batch != run.batch):
        latest = job.loader.batch(bad.batch)
    meet_bad_batch(run, latest, bad, guard, job.folder, job.args.skip_bad_batches)
    return False


def between_steps(job: Job, run: Training, saved: float) -> float:
    """Raise `Stopped` where a signal has come, save where `--save-every-minutes` are over, in all processes at the same
    step; saved: when that was last, returned anew."""
    every = 60 * job.args.save_every_minutes
    wishes = torch.tensor([job.stop.number, bool(every) and time.monotonic() - saved > every], dtype=torch.int64)
    if run.group.world > 1:
        if run.ema.updates % run.read_every:
            return saved
        wishes = run.group.sum(wishes)
    if not wishes.any():
        return saved
    all_finite(job, run)  # nothing is saved, and no row written, without what the last steps showed
    if wishes[0]:
        run.share_statistics()
        raise Stopped(job.stop.number or signal.SIGTERM)
    run.share_statistics()
    save(job, run, best=False)
    return time.monotonic()


def validate(job: Job, run: Training) -> dict[str, float]:
    """Evaluate the averaged weights; returns the row for the log."""
    model = run.ema.model

    def predict(images: Tensor, targets) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        raw = model(images)
        return *model.decode(raw), model.loss(raw, targets)

    result = evaluate(predict, model.select, job.stop.between(job.val_loader), job.held, model.thresholds,
                      device=run.device, group=run.group)
    m = result.metrics
    run.class_ap = [numbers.AP for numbers in m.per_class]
    print(f"    AP {m.AP:.4f}  AP50 {m.AP50:.4f}  AP75 {m.AP75:.4f}  AP_S {m.AP_S:.4f}  AP_M {m.AP_M:.4f}  "
          f"AP_L {m.AP_L:.4f}  AR {m.AR100:.4f}  P {m.precision:.3f}  R {m.recall:.3f}")
    words = ("precision", "recall", "AP50", "AP", "AP75", "AP_S", "AP_M", "AP_L")
    metrics = {f"metrics/{word}": getattr(m, word) for word in words}
    return {**metrics, **{f"val/{k}": v for k, v in result.losses.items()}}


def save(job: Job, run: Training, best: bool) -> None:
    """Write last.pt, best.pt where told that these weights are the best, and the periodic copy; main does."""
    if not run.group.is_main:
        return
    check_finite(run, job.folder)
    weights, period = job.folder / "weights", job.args.save_period
    if best:
        save_checkpoint(weights_of(run), weights / "best.pt")
    settings = {k: v for k, v in vars(job.args).items() if k not in ("debug", "resume")}
    save_run(run, settings, job.folder)
    if period > 0 and run.batch == 0 and run.epoch % period == 0:
        save_checkpoint(weights_of(run), weights / f"epoch{run.epoch}.pt")


def finish(job: Job, run: Training) -> None:
    """Evaluate best.pt as val.py does, draw the curves, and leave weights alone in last.pt."""
    args, weights, group = job.args, job.folder / "weights", run.group
    stored = group.broadcast(load_checkpoint(weights / "best.pt") if group.is_main else None)
    model = build_model(stored["config"], names=stored["names"])
    model.load_state_dict(stored["model"])
    model = model.to(run.device, memory_format=torch.channels_last).eval().fuse()
    predict = without_losses(lambda images: model.decode(model(images)))
    result = evaluate(predict, model.select, job.val_loader, job.held, model.thresholds, device=run.device, group=group)
    if not group.is_main:
        return
    table = write_results(result, job.held, job.folder, plots=not args.noplots)
    if not args.noplots:
        plots.plot_results(job.folder / "results.csv", job.folder / "results.png")
    end_run(job.folder)  # only now: a run that is killed before can still be resumed
    for logger in job.loggers:
        for path in (weights / "best.pt", job.folder / "results.png"):
            if path.is_file():
                logger.artifact(path)
        logger.close()
    if run.left_out:
        print(left_out_words(run))
    print(f"\n{weights / 'best.pt'} on {job.held.source}:\n{table}")
    print(f"results in {job.folder}; next: python detect.py --weights "
          f"{shlex.quote(str(weights / 'best.pt'))} --source <images>")


def build_parser() -> argparse.ArgumentParser:
    """The words of YOLO's train.py (`engine.training.settings`), and `--plugin`."""
    parser = make_parser(__doc__.splitlines()[0])
    add_plugin_flag(parser)
    return parser


if __name__ == "__main__":
    run_script(main, build_parser())
