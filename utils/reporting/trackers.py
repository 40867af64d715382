"""Experiment trackers, on request: `--logger wandb mlflow clearml`.

TensorBoard and CSV are always written (`utils.reporting.run_log`). A tracker's package is imported only here, with its
telemetry switched off. Its own environment variables (WANDB_MODE=offline, MLFLOW_TRACKING_URI, CLEARML_OFFLINE_MODE)
work as usual.
"""

import importlib
import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from utils.errors import UserError, nearest
from utils.files import write_bytes
from utils.reporting.draw import WRITABLE_SUFFIXES

MAX_FAILURES = 3  # in a row, after which a tracker is disabled, since each call may wait for a lost network


class Logger(Protocol):
    """The interface of a tracker."""

    def add(self, row: Mapping[str, Any], epoch: int) -> None:
        """Log the numbers of an epoch; anything else is ignored."""

    def artifact(self, path: Path) -> None:
        """Upload a result file: weights or an image."""

    def close(self) -> None:
        """Flush and end the run."""


class Wandb:
    """Weights & Biases. Project: WANDB_PROJECT, or else the name of the parent of the results folder."""

    def __init__(self, folder: Path, config: dict[str, Any], name: str, run: str | None) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        self.package = _package("wandb")
        project = os.environ.get("WANDB_PROJECT") or folder.resolve().parent.name or "assn"
        settings = self.package.Settings(disable_git=True, disable_code=True, console="off")
        self.run = self.package.init(project=project, name=name, dir=str(folder), config=config, id=run,
                                     resume="allow" if run else None, settings=settings)
        self.id = str(self.run.id)

    def add(self, row: Mapping[str, Any], epoch: int) -> None:
        self.run.log({**numbers(row), "epoch": epoch})

    def artifact(self, path: Path) -> None:
        if path.suffix in WRITABLE_SUFFIXES:
            self.run.log({path.stem: self.package.Image(str(path))})
            return
        artifact = self.package.Artifact(f"run_{self.id}_{path.stem}", type="model")
        artifact.add_file(str(path))
        self.run.log_artifact(artifact)

    def close(self) -> None:
        self.run.finish()


class MLflow:
    """MLflow. Experiment: MLFLOW_EXPERIMENT_NAME, or else the name of the parent of the results folder."""

    def __init__(self, folder: Path, config: dict[str, Any], name: str, run: str | None) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        self.package = _package("mlflow")
        self.package.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME") or folder.resolve().parent.name or "assn")
        self.id = self.package.start_run(run_id=run, run_name=name).info.run_id
        if not run:  # parameters cannot be written twice
            self.package.log_params({key: str(value)[:500] for key, value in config.items()})

    def add(self, row: Mapping[str, Any], epoch: int) -> None:
        self.package.log_metrics({mlflow_name(key): value for key, value in numbers(row).items()}, step=epoch)

    def artifact(self, path: Path) -> None:
        self.package.log_artifact(str(path))

    def close(self) -> None:
        self.package.end_run()


def mlflow_name(name: str) -> str:
    """A name that MLflow takes: letters, digits, `_-. :/`; `<` and `>` of sizes become words, others `_`."""
    return re.sub(r"[^\w\-. :/]", "_", name.replace("<", "below ").replace(">", "above "))


class ClearML:
    """ClearML. Project: CLEARML_PROJECT, or else the name of the parent of the results folder."""

    def __init__(self, folder: Path, config: dict[str, Any], name: str, run: str | None) -> None:
        task = _package("clearml").Task
        project = os.environ.get("CLEARML_PROJECT") or folder.resolve().parent.name or "assn"
        self.task = task.init(project_name=project, task_name=name, continue_last_task=run or False,
                              auto_connect_frameworks=False, auto_connect_arg_parser=False,
                              auto_connect_streams=False, auto_resource_monitoring=False)
        self.id = str(self.task.id)
        if not run:
            self.task.connect(config)

    def add(self, row: Mapping[str, Any], epoch: int) -> None:
        for key, value in numbers(row).items():
            title, _, series = key.rpartition("/")
            self.task.get_logger().report_scalar(title=title or series, series=series, value=value, iteration=epoch)

    def artifact(self, path: Path) -> None:
        if path.suffix in WRITABLE_SUFFIXES:
            self.task.get_logger().report_image(title="results", series=path.stem, iteration=0, local_path=str(path))
        else:
            self.task.upload_artifact(path.name, artifact_object=str(path))

    def close(self) -> None:
        self.task.close()


TRACKERS: dict[str, Callable[..., Any]] = {"wandb": Wandb, "mlflow": MLflow, "clearml": ClearML}
LOGIN = {"wandb": "wandb login, or set WANDB_MODE=offline", "mlflow": "check MLFLOW_TRACKING_URI",
         "clearml": "clearml-init, or set CLEARML_OFFLINE_MODE=1"}


class SafeTracker:
    """A tracker whose errors do not stop the training: the first is printed, after three in a row it is disabled."""

    def __init__(self, name: str, tracker: Logger) -> None:
        self.name, self.tracker = name, tracker
        self.failures, self.warned = 0, False

    def add(self, row: Mapping[str, Any], epoch: int) -> None:
        self._try(lambda: self.tracker.add(row, epoch))

    def artifact(self, path: Path) -> None:
        self._try(lambda: self.tracker.artifact(Path(path)))

    def close(self) -> None:
        self._try(self.tracker.close)

    def _try(self, action: Callable[[], None]) -> None:
        if self.failures >= MAX_FAILURES:
            return
        try:
            action()
        except Exception as error:  # whatever a tracker raises
            self.failures += 1
            cause = (str(error).splitlines() or [type(error).__name__])[0]
            if not self.warned:
                print(f"--logger {self.name}: {cause}; training continues", file=sys.stderr)
            if self.failures == MAX_FAILURES:
                print(f"--logger {self.name}: failed {MAX_FAILURES} times in a row; nothing more is sent to it",
                      file=sys.stderr)
            self.warned = True
        else:
            self.failures = 0


def make_loggers(trackers: Sequence[str], folder: Path | str, config: Mapping[str, Any], name: str, *,
                 resume: bool = False) -> list[Logger]:
    """Start the trackers of `--logger`; with `resume` each continues the run that it began in `folder`.

    config: settings to log. In a distributed run only the main process calls this. Raises `UserError` for a tracker
    that is unknown, not installed, or does not start.
    """
    folder = Path(folder)
    known = _remembered(folder) if resume else {}
    made: dict[str, SafeTracker] = {}
    for kind in dict.fromkeys(trackers):
        if kind not in TRACKERS:
            hint = nearest(kind, list(TRACKERS)) or f"known: {', '.join(TRACKERS)}"
            raise UserError(f"--logger {kind}: {hint}", "unknown-logger")
        try:
            tracker = TRACKERS[kind](folder, dict(config), name, known.get(kind))
        except UserError:
            raise
        except Exception as error:
            cause = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"--logger {kind}: it does not start: {cause}; {LOGIN[kind]}", "failed-logger") from None
        known[kind] = tracker.id
        made[kind] = SafeTracker(kind, tracker)
    if made:
        write_bytes(folder / "loggers.json", json.dumps(known).encode())
    return list(made.values())


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row, without the epoch."""
    return {key: float(value) for key, value in row.items()
            if key != "epoch" and isinstance(value, int | float) and not isinstance(value, bool)}


def _remembered(folder: Path) -> dict[str, str]:
    """Run ids of this training before it was interrupted, by tracker."""
    try:
        found = json.loads((folder / "loggers.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}


def _package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(f"--logger {name}: its package is not installed: pip install {name}",
                        "missing-package") from None
