"""What a run reports: its header, the row of an epoch, and the final evaluation of best.pt."""

import shlex
from pathlib import Path
from typing import Any

import torch
import yaml

from engine.evaluation.results import write_results
from engine.training.checkpoints import end_run
from engine.training.config import DEFAULT_MODEL
from engine.training.evaluating import evaluate_model
from engine.training.state import Job, Training
from models import build_model
from utils.checkpoint import load_checkpoint
from utils.commands import command
from utils.config import read_yaml
from utils.device import describe, memory_gb
from utils.errors import UserError
from utils.files import write_bytes
from utils.reporting import plots
from utils.reporting.run_log import read_csv
from utils.reporting.run_record import given_command, revision


def log_run_header(job: Job, run: Training) -> None:
    """Print what is going to be trained on what, and write args.yaml and labels.jpg."""
    config, folder = job.config, job.folder
    print(job.train_index.report.format(), job.val_index.report.format(), sep="\n")
    count = sum(p.numel() for p in run.model.parameters())
    processes = f" in {run.group.world} processes" if run.group.world > 1 else ""
    windows = f" (seen on windows of {config.tile} px, as val.py --slice {config.tile})" if config.tile else ""
    print(f"{config.cfg or config.weights or DEFAULT_MODEL}: {count:,} parameters, {run.model.num_classes} classes, "
          f"on {describe(run.device)}{processes} in {str(run.amp or torch.float32).removeprefix('torch.')}; "
          f"{len(job.train_index)} images train, {len(job.val_index)} validate{windows}, "
          f"batches of {config.batch_size}; "
          f"results in {folder}")
    (folder / "weights").mkdir(parents=True, exist_ok=True)
    args = folder / "args.yaml"
    first = stored_command(folder) if config.resume else ""
    content = {"command": first or given_command("train", config), **dict(sorted(config.to_dict().items())),
               "recipe": vars(run.recipe)}
    write_bytes(args, yaml.safe_dump(content, sort_keys=False).encode())
    if not config.noplots:
        plots.plot_labels(job.train_index.records, job.train_index.names, folder / "labels.jpg")


def epoch_row(run: Training) -> dict[str, float]:
    """Mean losses per image over all processes, images per second and peak memory in GiB."""
    means, speed = run.meter.means(), run.meter.images_per_second()
    counted = torch.tensor([run.meter.images, speed, *(mean * run.meter.images for mean in means.values())],
                           dtype=torch.float64)
    images, speed, *sums = run.group.sum(counted).tolist()
    return {**{f"train/{name}": value / max(images, 1) for name, value in zip(means, sums, strict=True)},
            "images_per_s": speed, "memory_gb": memory_gb(run.device)}


def skipped_steps_line(run: Training) -> str:
    """How many steps the scaler has skipped."""
    why = "fp16 finds its loss scale that way" if run.amp == torch.float16 else "lower the learning rate if this lasts"
    return (f"    steps skipped because their gradients were not finite: {run.skipped_steps} of {run.ema.updates} "
            f"({why})")


def stored_command(folder: Path) -> str:
    """The command that started the run in a folder, from its args.yaml; '' where that says none any more."""
    try:
        return str(read_yaml(folder / "args.yaml").get("command", ""))
    except UserError:  # removed or edited by the user: no reason to end a training
        return ""


def record(job: Job, run: Training) -> dict[str, Any]:
    """What was trained, for `python -m benchmarks.table`."""
    seconds = float(read_csv(job.folder / "results.csv")[-1].get("time") or 0)
    return {"command": stored_command(job.folder), "commit": revision(),
            "torch": torch.__version__, "device": describe(run.device), "processes": run.group.world,
            "parameters": sum(p.numel() for p in run.model.parameters()), "epochs": run.epoch,
            "best_epoch": run.best_epoch, "seconds": seconds}


def finish(job: Job, run: Training) -> None:
    """Evaluate best.pt as val.py does, plot the curves, and reduce last.pt to its weights."""
    config, weights, group = job.config, job.folder / "weights", run.group
    stored = group.broadcast(load_checkpoint(weights / "best.pt") if group.is_main else None)
    model = build_model(stored["config"], names=stored["names"])
    model.load_state_dict(stored["model"])
    model = model.to(run.device, memory_format=torch.channels_last).eval().fuse()
    result = evaluate_model(job, model, run.device, group, losses=False)
    if not group.is_main:
        return
    table = write_results(result, job.val_index, job.folder, plots=not config.noplots, run=record(job, run))
    if not config.noplots:
        plots.plot_results(job.folder / "results.csv", job.folder / "results.png", run.best_epoch)
    end_run(job.folder)  # last: a run that is killed before can still be resumed
    for logger in job.loggers:
        for path in (weights / "best.pt", job.folder / "results.png"):
            if path.is_file():
                logger.artifact(path)
        logger.close()
    if job.loader.damaged:
        print(f"{len(job.loader.damaged)} images could not be decoded and were excluded from the loss, the first: "
              f"{job.loader.damaged[0]}")
    if run.skipped_steps:
        print(skipped_steps_line(run))
    print(f"\n{weights / 'best.pt'} on {job.val_index.source}:\n{table}")
    print(f"results in {job.folder}; next: {command('detect')} --weights "
          f"{shlex.quote(str(weights / 'best.pt'))} --source <images>")
