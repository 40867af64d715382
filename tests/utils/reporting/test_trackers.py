"""Experiment trackers: what they are told, and that none of them can end a training. The packages are stand-ins."""

import sys
from types import SimpleNamespace

import pytest

from tests.refusals import refused
from utils.reporting.trackers import make_loggers, mlflow_name

ROW = {"epoch": 3, "train/box": 1.5, "metrics/AP": 0.25, "note": "text"}
CONFIG = {"lr0": 0.01, "imgsz": [640]}


class Recorder:
    """Takes any call under any name and writes it down as (name, args, options)."""

    def __init__(self, calls, broken=()):
        self._calls, self._broken, self.id = calls, broken, "run7"

    def __getattr__(self, name):
        def call(*args, **options):
            if name in self._broken:
                raise ConnectionError(f"no network for {name}")
            self._calls.append((name, args, options))
            return self
        return call

    @property
    def info(self):
        return SimpleNamespace(run_id=self.id)


@pytest.fixture
def calls(monkeypatch):
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    seen = []
    for word in ("wandb", "mlflow"):
        monkeypatch.setitem(sys.modules, word, Recorder(seen))
    monkeypatch.setitem(sys.modules, "clearml", SimpleNamespace(Task=Recorder(seen)))
    return seen


@pytest.mark.parametrize("word, sent", [
    ("wandb", ("log", ({"train/box": 1.5, "metrics/AP": 0.25, "epoch": 3},), {})),
    ("mlflow", ("log_metrics", ({"train/box": 1.5, "metrics/AP": 0.25},), {"step": 3})),
    ("clearml", ("report_scalar", (), {"title": "metrics", "series": "AP", "value": 0.25, "iteration": 3}))])
def test_a_tracker_gets_the_numbers_of_an_epoch_and_the_files(tmp_path, calls, word, sent):
    logger, = make_loggers([word], tmp_path / "exp", CONFIG, "exp")
    logger.add(ROW, 3)
    assert sent in calls
    before = len(calls)
    logger.artifact(tmp_path / "best.pt")
    logger.artifact(tmp_path / "results.png")
    texts = [str(call) for call in calls[before:]]
    assert any("best.pt" in text for text in texts) and any("results.png" in text for text in texts)
    logger.close()
    assert calls[-1][0] in ("finish", "end_run", "close")


@pytest.mark.parametrize("word, begin, key", [("wandb", "init", "id"), ("mlflow", "start_run", "run_id"),
                                              ("clearml", "init", "continue_last_task")])
def test_a_resumed_run_goes_on_and_a_new_one_in_the_same_folder_does_not(tmp_path, calls, word, begin, key):
    begun = []
    for resume in (False, True, False):
        calls.clear()
        make_loggers([word], tmp_path, CONFIG, "exp", resume=resume)
        begun.append(next(options[key] for name, _, options in calls if name == begin))
    assert begun[1] == "run7" and not begun[0] and not begun[2]


def test_a_tracker_that_fails_is_told_once_left_alone_after_three_and_the_rest_goes_on(tmp_path, calls, monkeypatch,
                                                                                      capsys):
    broken = Recorder(calls, broken={"log_metrics", "end_run"})
    monkeypatch.setitem(sys.modules, "mlflow", broken)
    failing, sound = make_loggers(["mlflow", "wandb"], tmp_path, CONFIG, "exp")
    for epoch in range(1, 6):
        failing.add(ROW, epoch)
        sound.add(ROW, epoch)
    failing.close()
    told = capsys.readouterr().err
    assert told.count("no network for log_metrics") == 1
    assert told.count("nothing more is sent") == 1 and "end_run" not in told
    assert sum(name == "log" for name, _, _ in calls) == 5


def test_a_short_outage_does_not_silence_a_tracker(tmp_path, calls, monkeypatch):
    tracker = Recorder(calls)
    monkeypatch.setitem(sys.modules, "mlflow", tracker)
    logger, = make_loggers(["mlflow"], tmp_path, CONFIG, "exp")
    for epoch in range(8):
        tracker._broken = ("log_metrics",) if epoch % 3 else ()
        logger.add(ROW, epoch)
    assert [options["step"] for name, _, options in calls if name == "log_metrics"] == [0, 3, 6]


@pytest.mark.parametrize("word, code, named", [("wandb", "missing-package", "pip install wandb"),
                                               ("mlflw", "unknown-logger", "'mlflow'")])
def test_what_is_missing_is_told_at_the_start(tmp_path, monkeypatch, word, code, named):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with refused(code, word, named):
        make_loggers([word], tmp_path, CONFIG, "exp")


def test_one_that_does_not_start_says_what_to_do(tmp_path, calls, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", Recorder(calls, broken={"init"}))
    with refused("failed-logger", "wandb: .*no network for init", "wandb login"):
        make_loggers(["wandb"], tmp_path, CONFIG, "exp")


def test_nothing_asked_nothing_imported_nothing_written(tmp_path, monkeypatch):
    for word in ("wandb", "mlflow", "clearml"):
        monkeypatch.setitem(sys.modules, word, None)
    assert make_loggers([], tmp_path, CONFIG, "exp") == [] and not list(tmp_path.iterdir())


def test_names_of_sizes_are_names_to_mlflow():
    assert mlflow_name("metrics/own/AP_<8") == "metrics/own/AP_below 8"
    assert mlflow_name("metrics/AP:it's 1-2") == "metrics/AP:it_s 1-2"
