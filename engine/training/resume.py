"""The settings of a run that is resumed: those in its checkpoint, and those that may be given anew."""

import argparse
import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

from engine.training.config import TrainConfig
from utils.cli import flag_of
from utils.commands import command
from utils.errors import UserError, shown

RUNTIME_FLAGS = ("plugin", "device", "workers", "resume", "allow_data_change", "debug")  # never taken from a checkpoint
RESUMABLE_FLAGS = ("data", "epochs", "patience", "amp", "cache", "max_pixels", "save_every_minutes", "save_period",
                   "skip_bad_batches", "noplots", "logger", "compile")  # may change when a run is resumed
LISTS = ("size_bins", "eval_iou")  # one value, 8,16,32, of several numbers
IGNORED_FLAGS = ("project", "exist_ok")  # the run has its folder


def stored_settings(config: TrainConfig) -> dict[str, Any]:
    """The settings as a checkpoint holds them."""
    return {**{k: v for k, v in config.to_dict().items() if k != "resume"}, "given": dict(config.given)}


def merge_resume_args(config: TrainConfig, stored: dict[str, Any], path: Path) -> TrainConfig:
    """The settings of the run that wrote the checkpoint `stored`. From `config` come the runtime flags, and those
    resumable flags that were given, even at their default. Raises `UserError` for other given flags."""
    if "train" not in stored:
        raise UserError(_nothing_to_resume(config, stored, path), "nothing-to-resume")
    state = stored["train"]
    saved, given = _checked(state["args"], path), config.given
    first = saved["given"]  # as given when the run was started, before rounding and measuring
    fixed = [name for name, value in given.items()
             if name in saved and name not in (*RUNTIME_FLAGS, *RESUMABLE_FLAGS, *IGNORED_FLAGS)
             and value not in (saved[name], first.get(name, saved[name]))]
    if fixed:
        raise UserError(f"--resume: {' '.join(map(flag_of, fixed))} cannot change, a run continues as {path} has it; "
                        f"drop it, or start a new run with --weights {path}", "flag-conflict")
    changed = {name: given[name] for name in RESUMABLE_FLAGS if name in given}
    cache = changed.get("cache", saved["cache"])
    if cache != saved["cache"] and "gpu" in (cache, saved["cache"]):
        raise UserError(f"--resume: --cache {cache} draws other pixels than {path} has with {saved['cache']}; drop it",
                        "flag-conflict")
    epochs = changed.get("epochs", saved["epochs"])
    if epochs != saved["epochs"]:
        if epochs <= state["epoch"]:
            raise UserError(f"--resume: --epochs {epochs}: {state['epoch']} of {saved['epochs']} are done already; "
                            "give more, or drop it", "flag-conflict")
        print(f"--epochs {epochs} instead of {saved['epochs']}: from here on the learning rate follows the schedule "
              f"of {epochs} epochs")
        state["ended"] = False
    kept = {name: value for name, value in {**saved, **changed}.items() if name not in RUNTIME_FLAGS}
    return config.replace(**{flag.name: kept[flag.name] for flag in fields(config) if flag.name in kept})


def _checked(saved: dict[str, Any], path: Path) -> dict[str, Any]:
    """The settings in a checkpoint, which is untrusted. Raises `UserError` for a value that its flag cannot have."""
    for action in TrainConfig.parser("")._actions:
        value = saved.get(action.dest)
        if value is None or action.dest in RUNTIME_FLAGS:
            continue
        kind = bool if action.nargs == 0 else int | float if action.type else str
        several = isinstance(value, list) and (action.nargs == "+" or action.dest in LISTS)
        try:
            for one in value if several else [value]:
                if not isinstance(one, kind) or (isinstance(one, bool) and kind is not bool):
                    raise argparse.ArgumentTypeError(f"{shown(one)} is no {'number' if action.type else 'such value'}")
                if action.choices and one not in action.choices:
                    raise argparse.ArgumentTypeError(f"{shown(one)} is none of {', '.join(map(str, action.choices))}")
                if action.type and action.dest not in LISTS:
                    action.type(str(one))
            if action.dest in LISTS:
                action.type(",".join(map(str, value)) if several else str(value))
        except argparse.ArgumentTypeError as error:
            raise UserError(f"{path}: damaged, its setting {action.option_strings[0]} cannot be: {error}; resume from "
                            "another checkpoint, or start a new run", "corrupt-checkpoint") from None
    first = saved.get("given")
    return {**saved, "given": first if isinstance(first, dict) else {}}


def _nothing_to_resume(config: TrainConfig, stored: dict[str, Any], path: Path) -> str:
    """Why a checkpoint without training state cannot be resumed, and the nearest command."""
    last = path.with_name("last.pt")
    if path.name != last.name and last.is_file():
        return f"{path}: holds only weights; runs are resumed from last.pt: --resume {shlex.quote(str(last))}"
    trained = stored.get("config", {}).get("trained", {})
    flags = ["--weights", str(path)]
    for flag, value in (("--data", config.given.get("data") or trained.get("data")), ("--imgsz", trained.get("imgsz"))):
        if value and value != "shapes":
            flags += [flag, *map(str, value if isinstance(value, list) else [value])]
    return (f"{path}: this run has ended after {stored.get('epoch', 'all')} epochs, there is nothing to resume; to "
            f"train on from its weights, as a new run: {command('train')} {shlex.join(flags)} --epochs "
            f"{config.given.get('epochs', 'N')}")
