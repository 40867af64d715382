"""Train a detector: `python train.py` trains yolov8n-assn on the built-in data; --cfg, --data and --weights change it.

The story: settings -> data -> model -> optimiser -> epochs of (train, validate, save) -> final evaluation of best.pt.
Results lie in runs/train/exp, exp2, ...
"""

import argparse
import math
import shlex
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from tqdm import tqdm

import val
from data import Index, load_index
from data.augment import AugmentConfig
from data.loader import eval_loader, train_loader
from models import build_model, load_model
from models.catalogue import resolve
from models.losses import scale_gains
from models.plugins import add_plugin_flag, load_plugins
from models.weights import transfer
from utils import plots, report
from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.cli import input_size, worker_count
from utils.device import amp_dtype, describe, memory_gb, one_process, seed_everything, select_device
from utils.ema import ModelEMA
from utils.errors import UserError, run_script
from utils.optim import Schedule, auto_optimizer, build_optimizer, freeze, scaled_weight_decay, warmup_iterations
from utils.recipe import Recipe, load_recipe
from utils.settings import find_resume, make_parser, save_args, settings_of, settle

PICTURED_BATCHES = 3
GPU_READ_STEPS = 10  # steps between two readings of the losses on a GPU, since each reading waits for the device


@dataclass
class Training:
    """Everything that changes while a run goes, and so everything that a checkpoint must hold."""

    model: nn.Module
    ema: ModelEMA
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    scaler: torch.amp.GradScaler
    device: torch.device
    amp: torch.dtype | None
    recipe: Recipe
    epoch: int = 0  # the next one to train
    best: float = -1.0
    best_epoch: int = 0
    ended: bool = False  # all epochs are done, or nothing improves any more


def main(args: argparse.Namespace) -> Path:
    """Train as told; returns the folder of results."""
    stored = None
    if args.resume:
        path = find_resume(args.resume, args.project)
        stored = load_checkpoint(path)
        args = settings_of(stored, args, path)
    load_plugins(args)  # of the flag alone, in a resumed run too: a checkpoint never names code to run
    one_process()
    device = select_device(args.device)
    seed_everything(args.seed, device)

    data = args.data or "shapes"
    train_index = load_index(data, "train", single_cls=args.single_cls, strict=args.strict)
    val_index = load_index(data, "val", single_cls=args.single_cls, strict=args.strict)
    if train_index.names != val_index.names:
        raise UserError(f"{data}: its train and val splits name different classes ({train_index.names[:5]} ... and "
                        f"{val_index.names[:5]} ...); give `names:` in the YAML")
    if stored and train_index.names != stored["names"]:
        raise UserError(f"--resume: {data} names the classes {train_index.names[:5]} ..., the run had "
                        f"{stored['names'][:5]} ...; give it back the data that it was started on")
    model, recipe = stored_model(stored) if stored else make_model(args, train_index.names)
    frozen = freeze(model, args.freeze)
    if frozen:
        print(f"--freeze: {len(frozen)} parameter tensors stay as they are")
    check_last_batch(args, len(train_index), max(model.strides))
    workers = worker_count(args.workers, device.type)
    loader = train_loader(train_index, args.imgsz[0], args.batch_size, AugmentConfig(**recipe.augment),
                          workers=workers, seed=args.seed, cache=args.cache, pin_memory=device.type == "cuda")
    val_loader = eval_loader(val_index, args.imgsz[-1], args.batch_size * 2, workers=workers,
                             stride=max(model.strides), pin_memory=device.type == "cuda")
    run = make_training(args, recipe, model.to(device, memory_format=torch.channels_last), device, len(loader))
    folder = path.parent.parent if stored else report.increment_dir(args.project, args.name, args.exist_ok)
    if stored:
        restore(run, stored)
    introduce(args, run, folder, train_index, val_index)
    try:
        fit(args, run, folder, loader, val_loader, val_index)
    except KeyboardInterrupt:
        if run.epoch and not args.nosave:
            print(f"\nto go on from the last whole epoch: python train.py --resume {shlex.quote(str(folder))}")
        raise
    except torch.OutOfMemoryError:
        raise UserError(f"--batch-size {args.batch_size} at --imgsz {max(args.imgsz)} does not fit into the memory of "
                        f"{describe(device)}; lower one of them") from None
    if loader.damaged:
        print(f"{len(loader.damaged)} images could not be decoded and taught nothing, the first: {loader.damaged[0]}")
    return finish(args, folder, val_loader, val_index, device)


def make_model(args: argparse.Namespace, names: list[str]) -> tuple[nn.Module, Recipe]:
    """Build the model, carry weights in, and settle the recipe of its family with what the flags change in it."""
    start = load_model(args.weights) if args.weights else None
    cfg = args.cfg or (start.config if start else "yolov8n-assn")
    config = resolve(cfg, len(names), names, args.neck, {"box_loss": args.box_loss, "assign": args.assign})
    words = [f.name for f in fields(AugmentConfig)]
    recipe = load_recipe(config["recipe"], words)
    if args.hyp or not args.data:
        recipe = load_recipe(args.hyp or "demo", words, base=recipe)
    settle(args, recipe)
    with torch.device("meta"):  # no memory, no initialisation: only to learn what head it has
        head = build_model(config).head
    strides = head.strides
    if recipe.label_smoothing and not hasattr(head, "label_smoothing"):
        raise UserError("--label-smoothing (or label_smoothing in the recipe): this model's head learns from soft "
                        "class targets already; drop it")
    args.imgsz = list(input_size(args.imgsz, max(strides)))[:len(args.imgsz)]
    config["trained"] = {"data": args.data or "shapes", "imgsz": args.imgsz}  # where val.py and detect.py begin
    recipe.gains = scale_gains(recipe.gains, len(strides), len(names), max(args.imgsz), config["recipe"])
    smoothing = {"label_smoothing": recipe.label_smoothing} if recipe.label_smoothing else {}
    model = build_model(config, gains=recipe.gains, **smoothing)
    for note in recipe.notes:
        print(note)
    if start:
        print(f"{args.weights}: {transfer(model, start)}")
    return model, recipe


def check_last_batch(args: argparse.Namespace, images: int, stride: int) -> None:
    """Raises `UserError` where a batch would give batch norm one single value: one image of one coarsest cell."""
    if args.imgsz[0] <= stride and images % args.batch_size == (args.batch_size > 1):
        raise UserError(f"--batch-size {args.batch_size}: of {images} images one is left alone in its batch, too "
                        f"little for batch norm at --imgsz {args.imgsz[0]}; change one of the two")


def stored_model(stored: dict[str, Any]) -> tuple[nn.Module, Recipe]:
    """The model and the recipe of the run that wrote a checkpoint, whatever the files say by now."""
    return build_model(stored["config"], names=stored["names"]), Recipe(**stored["train"]["recipe"])


def make_training(args: argparse.Namespace, recipe: Recipe, model: nn.Module, device: torch.device,
                  batches: int) -> Training:
    """Optimiser, schedule, averaged weights and mixed precision for a model that is on its device."""
    kind, lr0, momentum, bias_lr = recipe.optimizer, recipe.lr0, recipe.momentum, recipe.warmup_bias_lr
    if kind == "auto":
        kind, lr0, momentum, bias_lr = auto_optimizer(model.num_classes, args.epochs * batches)
        print(f"--optimizer auto: {kind}, lr0 {lr0}, momentum {momentum}")
    decay = scaled_weight_decay(recipe.weight_decay, args.batch_size)
    optimizer = build_optimizer(model, kind, lr0, momentum, decay)
    warmup = warmup_iterations(recipe.warmup_epochs, batches, recipe.warmup_min_iters, args.epochs)
    schedule = Schedule(lr0, recipe.lrf, args.epochs, args.batch_size, warmup, momentum, recipe.warmup_momentum,
                        bias_lr, recipe.schedule)
    amp = amp_dtype(device, args.amp)
    scaler = torch.amp.GradScaler(device.type, enabled=amp == torch.float16)
    return Training(model, ModelEMA(model), optimizer, schedule, scaler, device, amp, recipe)


def introduce(args: argparse.Namespace, run: Training, folder: Path, train: Index, held: Index) -> None:
    """Say what is about to happen and write down the settings."""
    print(train.report.format(), held.report.format(), sep="\n")
    count = sum(p.numel() for p in run.model.parameters())
    print(f"{args.cfg or args.weights or 'yolov8n-assn'}: {count:,} parameters, {run.model.num_classes} classes, on "
          f"{describe(run.device)} in {str(run.amp or torch.float32).removeprefix('torch.')}; "
          f"{len(train.records)} images train, {len(held.records)} validate; results in {folder}")
    (folder / "weights").mkdir(parents=True, exist_ok=True)
    save_args(args, run.recipe, folder / "args.yaml")
    if not args.noplots:
        plots.plot_labels(train.records, train.names, folder / "labels.jpg")


def fit(args: argparse.Namespace, run: Training, folder: Path, loader, val_loader, held: Index) -> None:
    """All epochs: train, validate, save; ends early where nothing improves for `--patience` epochs."""
    log, board = report.CsvLog(folder / "results.csv", from_epoch=run.epoch), report.Board(folder, from_epoch=run.epoch)
    began = time.perf_counter() - float(log.rows[-1].get("time") or 0 if log.rows else 0)  # a resumed run goes on
    while not run.ended:
        if run.epoch >= args.epochs - args.close_mosaic:
            loader.close_mosaic()
        loader.set_epoch(run.epoch)
        pictures = folder if run.epoch == 0 and not args.noplots else None
        row = train_epoch(args, run, loader, pictures)
        run.epoch += 1
        last = run.epoch == args.epochs
        row = {"epoch": run.epoch, "time": time.perf_counter() - began, **row}
        if last or (run.epoch % args.val_interval == 0 and not args.noval):
            row.update(validate(run, val_loader, held))
        row["lr"] = run.optimizer.param_groups[0]["lr"]
        log.append(row)
        board.add(row, run.epoch)
        better = judge(run, row)
        run.ended = last or is_tired(args, run, row)
        if run.ended or not args.nosave:
            save(args, run, folder, better or args.nosave or (last and not run.best_epoch))
        if run.ended and not last:
            print(f"stopping: no better result for {args.patience} epochs (--patience) since epoch {run.best_epoch}")
    board.close()


def train_epoch(args: argparse.Namespace, run: Training, loader, pictures: Path | None) -> dict[str, float]:
    """One pass over the data; returns the mean losses per image, images per second and peak memory in GiB."""
    run.model.train()
    batches, since_step = len(loader), 0
    unread: list[tuple[Tensor, list[int]]] = []
    meter = report.LossMeter()
    bar = tqdm(loader, total=batches, dynamic_ncols=True, unit="batch")
    for number, batch in enumerate(bar):
        steps = run.schedule.apply(run.optimizer, run.epoch * batches + number, run.epoch)
        if pictures and number < PICTURED_BATCHES:
            plots.plot_batch(batch.images, batch.targets, pictures / f"train_batch{number}.jpg", run.model.names)
        images = batch.images.to(run.device, non_blocking=True, memory_format=torch.channels_last)
        targets = batch.targets.to(run.device, non_blocking=True)
        with torch.autocast(run.device.type, dtype=run.amp, enabled=run.amp is not None):
            raw = run.model(images)
        losses = run.model.loss(raw, targets)  # in float32, summed over the images of the batch
        run.scaler.scale(sum(losses.values())).backward()
        since_step += 1
        if since_step >= steps or number + 1 == batches:  # an epoch ends with a step, so that a checkpoint holds it all
            step(run)
            since_step = 0
        unread.append((torch.stack(list(losses.values())).detach(), batch.image_ids))
        if run.device.type == "cpu" or len(unread) == GPU_READ_STEPS or number + 1 == batches:
            meter.add(list(losses), read_losses(unread, list(losses)), sum(len(ids) for _, ids in unread))
            unread.clear()
            bar.set_description(report.progress_line(run.epoch, args.epochs, memory_gb(run.device), meter,
                                                     batch.targets, images.shape[-1]), refresh=False)
    return {**{f"train/{name}": loss for name, loss in meter.means().items()},
            "images_per_s": meter.images_per_second(), "memory_gb": memory_gb(run.device)}


def step(run: Training) -> None:
    """One optimiser step, and one of the averaged weights."""
    if run.recipe.clip_grad:
        run.scaler.unscale_(run.optimizer)
        clip_grad_norm_(run.model.parameters(), run.recipe.clip_grad)
    run.scaler.step(run.optimizer)
    run.scaler.update()
    run.optimizer.zero_grad(set_to_none=True)
    run.ema.update(run.model)


def read_losses(unread: list[tuple[Tensor, list[int]]], names: list[str]) -> list[float]:
    """Fetch the losses of some steps at once and sum them; one that is not finite ends the run and tells its images."""
    rows = torch.stack([values for values, _ in unread]).cpu()  # (steps, terms)
    for row, (_, image_ids) in zip(rows.tolist(), unread, strict=True):
        if not all(math.isfinite(value) for value in row):
            terms = ", ".join(f"{name} {value:g}" for name, value in zip(names, row, strict=True))
            raise UserError(f"the loss is not finite ({terms}) on images {image_ids}; the last checkpoint is whole: "
                            "lower the learning rate, or train with --amp fp32")
    return rows.sum(0).tolist()


def validate(run: Training, loader, held: Index) -> dict[str, float]:
    """Evaluate the averaged weights; returns the row for the log."""
    model = run.ema.model

    def predict(images: Tensor, targets) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        raw = model(images.contiguous(memory_format=torch.channels_last))
        return *model.decode(raw), model.loss(raw, targets)

    result = val.evaluate(predict, model.select, loader, held, device=run.device)
    m = result.metrics
    print(f"    AP {m.AP:.4f}  AP50 {m.AP50:.4f}  AP75 {m.AP75:.4f}  AP_S {m.AP_S:.4f}  AP_M {m.AP_M:.4f}  "
          f"AP_L {m.AP_L:.4f}  AR {m.AR100:.4f}  P {m.precision:.3f}  R {m.recall:.3f}")
    words = ("precision", "recall", "AP50", "AP", "AP75", "AP_S", "AP_M", "AP_L")
    metrics = {f"metrics/{word}": getattr(m, word) for word in words}
    return {**metrics, **{f"val/{k}": v for k, v in result.losses.items()}}


def judge(run: Training, row: dict[str, float]) -> bool:
    """Whether this epoch's validation, where there was one, is the best so far; remembers it."""
    fitness = 0.1 * row["metrics/AP50"] + 0.9 * row["metrics/AP"] if "metrics/AP" in row else -1.0  # as in YOLOv5
    if fitness > run.best:
        run.best, run.best_epoch = fitness, run.epoch
        return True
    return False


def is_tired(args: argparse.Namespace, run: Training, row: dict[str, float]) -> bool:
    """Whether `--patience` is at its end; only an epoch that was validated can say so."""
    waited = run.epoch - run.best_epoch
    return bool("metrics/AP" in row and args.patience and run.best_epoch and waited >= args.patience)


def save(args: argparse.Namespace, run: Training, folder: Path, best: bool) -> None:
    """Write last.pt, best.pt where told that these weights are the best, and the periodic copy."""
    model = run.ema.model
    content: dict[str, Any] = {"config": model.config, "names": model.names, "model": model.state_dict(),
                               "epoch": run.epoch}
    if best:
        save_checkpoint(content, folder / "weights" / "best.pt")
    settings = {k: v for k, v in vars(args).items() if k not in ("debug", "resume")}
    state = {"args": settings, "recipe": vars(run.recipe), "epoch": run.epoch, "best": run.best,
             "best_epoch": run.best_epoch, "ended": run.ended, "ema_updates": run.ema.updates,
             "model": run.model.state_dict(), "optimizer": run.optimizer.state_dict(),
             "scaler": run.scaler.state_dict(), "rng": torch.get_rng_state()}
    save_checkpoint({**content, "train": state}, folder / "weights" / "last.pt")
    if args.save_period > 0 and run.epoch % args.save_period == 0:
        save_checkpoint(content, folder / "weights" / f"epoch{run.epoch}.pt")


def restore(run: Training, stored: dict[str, Any]) -> None:
    """Put a run back to where its checkpoint was written, at the start of an epoch."""
    state = stored["train"]
    run.model.load_state_dict(state["model"])
    run.ema.load_state_dict({"model": stored["model"], "updates": state["ema_updates"]})
    run.optimizer.load_state_dict(state["optimizer"])
    run.scaler.load_state_dict(state["scaler"])
    torch.set_rng_state(state["rng"])
    run.epoch, run.best, run.best_epoch, run.ended = (state[k] for k in ("epoch", "best", "best_epoch", "ended"))
    print(f"resuming after epoch {run.epoch}")


def finish(args: argparse.Namespace, folder: Path, loader, held: Index, device: torch.device) -> Path:
    """Evaluate best.pt as val.py does, draw the curves, and reduce last.pt to its weights."""
    weights = folder / "weights"
    model = load_model(weights / "best.pt", device).fuse().to(memory_format=torch.channels_last)
    predict = val.without_losses(lambda images: model.decode(model(images)))
    result = val.evaluate(predict, model.select, loader, held, device=device)
    table = val.write_results(result, held, folder, picture=not args.noplots)
    if not args.noplots:
        plots.plot_results(folder / "results.csv", folder / "results.png")
    last = load_checkpoint(weights / "last.pt")  # only now: a run that is killed before can still be resumed
    last.pop("train", None)
    save_checkpoint(last, weights / "last.pt")
    print(f"\n{weights / 'best.pt'} on {held.source}:\n{table}")
    print(f"results in {folder}; next: python detect.py --weights "
          f"{shlex.quote(str(weights / 'best.pt'))} --source <images>")
    return folder


def build_parser() -> argparse.ArgumentParser:
    """The words of YOLO's train.py (`utils.settings`), and `--plugin`."""
    parser = make_parser(__doc__.splitlines()[0])
    add_plugin_flag(parser)
    return parser


if __name__ == "__main__":
    run_script(main, build_parser())
