"""Train a detector: `python train.py` trains yolov8n-assn on the built-in data; --cfg, --data and --weights change it.

Settings -> data -> model -> optimiser -> epochs of (train, validate, save) -> final evaluation of best.pt.
Results are in runs/train/exp, exp2, ... On several GPUs: `torchrun --nproc-per-node 4 train.py ...`.
"""

import argparse
import shlex
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from utils.threads import shorten_spinning

if __name__ == "__main__":
    shorten_spinning()  # OpenMP reads it when PyTorch is imported

import torch

from data.object_sizes import object_sizes
from engine.evaluation.protocol_flags import chosen_protocol
from engine.optim.groups import freeze
from engine.training.assignment_audit import audit
from engine.training.autobatch import is_out_of_memory
from engine.training.checkpoints import find_run, has_ended, restore_run, save_checkpoints
from engine.training.config import TrainConfig
from engine.training.evaluating import evaluate_model
from engine.training.evolve import search
from engine.training.fingerprint import data_changed, fingerprint
from engine.training.inputs import fixed_weights, open_loaders, open_splits, open_train, typical_side, weights_by_result
from engine.training.multiscale import to_device
from engine.training.nonfinite import BufferSnapshot, all_finite
from engine.training.recipe import Recipe
from engine.training.replay import replay_file
from engine.training.results import epoch_row, finish, log_run_header, skipped_steps_line
from engine.training.resume import merge_resume_args
from engine.training.setup import fitting_batch, make_training, recipe_to_evolve, start_model, stored_model
from engine.training.state import Job, Training, UnreadLosses, patience_exhausted, update_best
from engine.training.step import forward_backward, step
from engine.training.validation import best_column, validation_lines, validation_row
from models.plugins import load_plugins
from utils.commands import command
from utils.device import describe, memory_gb, seed_everything
from utils.distributed.group import Group
from utils.distributed.launch import join, launched
from utils.errors import LostWorker, UserError, lost_worker, run_script
from utils.reporting.mosaic import plot_batch
from utils.reporting.progress import Progress
from utils.reporting.run_log import Board, CsvLog, LossMeter, increment_dir, progress_line
from utils.reporting.trackers import make_loggers
from utils.signals import Stopped, StopRequest

PLOT_BATCHES = 3


def main(args: argparse.Namespace) -> Path:
    """Train, search hyper-parameters, audit the assignment, or replay a bad batch; returns the folder of results."""
    config = TrainConfig.from_args(args).check(launched())
    load_plugins(config.plugin)  # only from the command line: a checkpoint never names code to run
    if config.replay:
        print(*replay_file(config.replay), sep="\n")
        return Path(config.replay).parent
    group, device = join(config.device)
    with group.session():
        if config.audit_assignment:
            return audit(config, group, device)
        if config.evolve:
            return search(config, recipe_to_evolve(config),
                          lambda own, recipe, listener: train(own, group, device, recipe, listener)[1].best)
        return train(config, group, device)[0]


def train(config: TrainConfig, group: Group, device: torch.device, recipe: Recipe | None = None,
          on_validation: Callable[[float, int], None] = lambda score, epoch: None) -> tuple[Path, Training]:
    """One training from its settings to its final table; returns its folder and its final state.

    recipe: instead of the family's; on_validation(score, epoch) is called after each validation.
    """
    path, stored = group.broadcast(find_run(config.resume, config.project) if group.is_main else None)
    if has_ended(stored) and not config.resume:
        print(f"restarted, but the run in {path.parent.parent} has ended: nothing is left to do")
        group.shutdown()
        sys.exit()
    if stored:
        config = merge_resume_args(config, stored, path)
    seed_everything(config.seed, device)
    train_index, val_index = open_splits(config, group, stored)
    best_by = best_column(config.save_best_by, chosen_protocol(config), val_index.names)
    data = {"train": fingerprint(train_index), "val": fingerprint(val_index)}
    changed = bool(stored) and data_changed(stored["train"].get("data", {}), data, config.data,
                                            config.allow_data_change)
    if stored:
        model, recipe = stored_model(stored, config.data)
    else:
        model, config, recipe = start_model(config, train_index.names,
                                            lambda placement: object_sizes(train_index.records, placement), recipe)
        model.config["trained"]["image"] = typical_side(train_index)  # detect.py compares its images with it
    frozen = freeze(model, config.freeze)
    if frozen:
        print(f"--freeze: {len(frozen)} parameter tensors are not trained")
    model = model.to(device, memory_format=torch.channels_last)
    if config.batch_size == -1:
        own = fitting_batch(config, recipe, model, device, len(train_index), group)
        config = config.replace(batch_size=own * group.world)
    policy = recipe.make_policy(model.frame.fill)
    if policy.needs_polygons:
        train_index = open_train(config, polygons=True)
    weights = fixed_weights(config, train_index)
    loader, val_loader = open_loaders(config, policy, (train_index, val_index), weights, model, group, device)
    run = make_training(config, recipe, model, group, device, len(loader))
    run.data = data
    folder = path.parent.parent if stored else group.broadcast(
        increment_dir(config.project, config.name, config.exist_ok) if group.is_main else None)
    if stored:
        restore_run(run, stored, whole_epoch=changed)
    loggers = make_loggers(config.logger, folder, {**config.to_dict(), **vars(recipe)}, folder.name,
                           resume=bool(stored)) if group.is_main else []
    with StopRequest() as stop:
        job = Job(config, folder, train_index, val_index, weights, loader, val_loader, loggers, stop, on_validation,
                  best_by)
        if group.is_main:
            log_run_header(job, run)
        fit_or_save_on_stop(job, run)
    finish(job, run)
    return folder, run


def fit_or_save_on_stop(job: Job, run: Training) -> None:
    """`fit`; when it is stopped, save where that is possible, and print how to resume."""
    resume = f"to go on: {command('train')} --resume {shlex.quote(str(job.folder))}"
    try:
        fit(job, run)
    except Stopped as stopped:
        if run.group.is_main and not job.config.nosave:
            save_checkpoints(job, run, best=False)
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
            raise UserError(f"{lost}; {way}", "lost-worker") from None
        if not is_out_of_memory(error):
            raise
        parts = "" if run.group.is_single else " (only a single process falls back to computing batches in parts)"
        raise UserError(f"--batch-size {job.config.batch_size} at --imgsz {max(job.config.imgsz)} does not fit into "
                        f"the memory of {describe(run.device)}{parts}; lower one of them, or let --batch-size -1 "
                        "choose", "out-of-memory") from None


def fit(job: Job, run: Training) -> None:
    """All epochs: train, validate, save; ends early if nothing improves for `--patience` epochs."""
    config, is_main = job.config, run.group.is_main
    log = CsvLog(job.folder / "results.csv", from_epoch=run.epoch)
    board = Board(job.folder, from_epoch=run.epoch) if is_main else None
    start = time.perf_counter() - float(log.rows[-1].get("time") or 0 if log.rows else 0)  # continued after a resume
    while not run.ended:
        if run.epoch >= config.epochs - config.close_mosaic:
            job.loader.close_mosaic()
        if config.image_weights and run.class_ap:
            job.loader.set_weights(weights_by_result(job.train_index, run.class_ap, job.fixed_weights))
        job.loader.set_epoch(run.epoch, run.batch)
        skipped = run.skipped_steps
        row = {"epoch": run.epoch + 1, "time": 0.0, **train_epoch(job, run), "skipped_steps": run.skipped_steps}
        if run.skipped_steps > skipped:
            print(skipped_steps_line(run))
        run.share_statistics()
        last = run.epoch + 1 == config.epochs
        if last or ((run.epoch + 1) % config.val_interval == 0 and not config.noval):
            row.update(validate(job, run))
        run.epoch, run.batch, run.meter = run.epoch + 1, 0, LossMeter()
        row.update(time=time.perf_counter() - start, lr=run.optimizer.param_groups[0]["lr"])
        better = update_best(run, row, job.best_by)
        run.ended = last or patience_exhausted(run, row, config.patience)
        if is_main:
            log.append(row)
            for logger in (board, *job.loggers):
                logger.add(row, run.epoch)
            if run.ended or not config.nosave:
                save_checkpoints(job, run, better or config.nosave or (last and not run.best_epoch))
        if "metrics/AP" in row:
            job.on_validation(run.score, run.epoch)
        if run.ended and not last:
            print(f"stopping: no better result for {config.patience} epochs (--patience) since epoch {run.best_epoch}")
    if board:
        board.close()


def train_epoch(job: Job, run: Training) -> dict[str, float]:
    """The rest of an epoch; returns its mean losses per image, images per second and peak memory in GiB."""
    config, batches, since_step, saved = job.config, len(job.loader), 0, time.monotonic()
    snapshot = BufferSnapshot(run.model) if config.skip_bad_batches else None
    run.model.train()
    bar = Progress(job.loader, f"{run.epoch + 1}/{config.epochs}", batches, start=run.batch, unit="batch",
                   shown=run.group.is_main, kept=True)
    for batch in bar:
        accumulate = run.schedule.apply(run.optimizer, run.epoch * batches + run.batch, run.epoch)
        if run.epoch == 0 and run.batch < PLOT_BATCHES and run.group.is_main and not config.noplots:
            titles = [Path(record.path).name for record in job.train_index.of_ids(batch.image_ids)]
            plot_batch(batch.images, batch.targets, job.folder / f"train_batch{run.batch}.jpg", run.model.names, titles)
        images, targets, size = to_device(config, run, batch)
        # an epoch ends with a step, so that its checkpoint needs no gradients
        is_step = since_step + 1 >= accumulate or run.batch + 1 == batches
        if snapshot:
            snapshot.update()
        names, values = forward_backward(run, images, targets, is_step, fresh=not since_step)
        since_step += 1
        run.unread.append(UnreadLosses(names, values, len(batch), run.batch, size))
        if len(run.unread) >= run.read_every or run.batch + 1 == batches:  # before the optimiser step
            if not all_finite(job, run, snapshot, batch):
                since_step, is_step = 0, False
            bar.say(progress_line(run.epoch, config.epochs, memory_gb(run.device), run.meter, batch.targets,
                                  images.shape[-1]))
        run.batch += 1
        if is_step:
            step(run)
            since_step = 0
            saved = poll_stop_and_autosave(job, run, saved)
    all_finite(job, run)  # the last step may have been skipped
    return epoch_row(run)


def poll_stop_and_autosave(job: Job, run: Training, saved: float) -> float:
    """After a step: raise `Stopped` if a signal has arrived, save if `--save-every-minutes` have passed, in all
    processes at the same step. saved: time of the last save, returned updated."""
    every = 60 * job.config.save_every_minutes
    requests = torch.tensor([job.stop.number, bool(every) and time.monotonic() - saved > every], dtype=torch.int64)
    if run.group.world > 1:
        if run.ema.updates % run.read_every:
            return saved
        requests = run.group.sum(requests)
    if not requests.any():
        return saved
    all_finite(job, run)  # before anything is saved, and counted before a row is written
    run.share_statistics()
    if requests[0]:
        raise Stopped(job.stop.number or signal.SIGTERM)
    save_checkpoints(job, run, best=False)
    return time.monotonic()


def validate(job: Job, run: Training) -> dict[str, float]:
    """Evaluate the averaged weights; returns the row for the log."""
    result = evaluate_model(job, run.ema.model, run.device, run.group, losses=True)
    run.class_ap = [numbers["AP"] for numbers in result.metrics.per_class]
    print(validation_lines(result))
    return validation_row(result, job.val_index.names, job.best_by)


def build_parser() -> argparse.ArgumentParser:
    """The flags of YOLO's train.py, and ours (`TrainConfig`)."""
    return TrainConfig.parser(__doc__.splitlines()[0], "train")


if __name__ == "__main__":
    run_script(main, build_parser())
