"""The GPU smoke run, rehearsed on the CPU at small size: every section, stopping, going on, and what it says."""

import json
import sys
import time

import pytest
import torch

from benchmarks import gpu_smoke
from benchmarks.smoke import results, steps, training
from tests.golden_rule import SHARED
from utils.checkpoint import save_checkpoint
from utils.errors import UserError

CPU = torch.device("cpu")


def call(*words: str) -> None:
    gpu_smoke.main(gpu_smoke.make_parser().parse_args(["--small", "--device", "cpu", *words]))


def test_a_small_run_does_everything_once(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["benchmarks/gpu_smoke.py", "--small"])
    words = ("--work", str(tmp_path), "--out", str(tmp_path / "out"), "--jobs", "3", "--workers", "0")
    call(*words)
    assert "everything is done" in capsys.readouterr().out
    found = {name: json.loads((tmp_path / "out" / f"{name}.json").read_text())["pieces"]
             for name in gpu_smoke.SECTIONS if name != "goldens" or SHARED.is_dir()}
    pieces = [piece for section in found.values() for piece in section.values()]
    assert all(piece["device"].startswith("cpu") and piece["versions"]["torch"] == torch.__version__
               and piece["command"] == "python -m benchmarks.gpu_smoke --small" for piece in pieces)
    assert {piece["model"] for piece in found["training"].values()} == set(training.MODELS)
    for piece in found["training"].values():
        assert piece["images_per_s"] > 0 and piece["memory_gb"] > 0 and 0 <= piece["test"]["AP"] <= 1
    table = (tmp_path / "out" / "gpu_smoke.md").read_text()
    assert "says nothing about a GPU" in table and "| yolov8n-assn | gradients, float64 |" in table

    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.json")}
    (tmp_path / "out" / "gpu_smoke.md").unlink()
    call(*words)  # again: nothing to do but the table
    assert "everything is done" in capsys.readouterr().out
    assert written == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.json")}
    assert (tmp_path / "out" / "gpu_smoke.md").read_text() == table


def test_no_time_no_work(tmp_path, capsys):
    call("--work", str(tmp_path), "--minutes", "0", "--only", "steps", "training")
    assert "4 pieces are left (1 of steps, 3 of training)" in capsys.readouterr().out
    assert not (tmp_path / "train").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so(tmp_path):
    with pytest.raises(UserError, match="no CUDA device is visible"):
        gpu_smoke.main(gpu_smoke.make_parser().parse_args(["--work", str(tmp_path)]))


def test_missing_folders_are_named(tmp_path):
    for only, what in (("goldens", "numbers are not there"), ("training", "BCCD is not there")):
        with pytest.raises(UserError, match=what):
            args = ["--device", "cpu", "--only", only, "--shared", str(tmp_path), "--out", str(tmp_path),
                    "--work", str(tmp_path)]
            gpu_smoke.main(gpu_smoke.make_parser().parse_args(args))


def test_small_and_full_results_do_not_mix(tmp_path):
    results.Section(tmp_path, "steps", True, CPU).add("a", {"checks": []}, 1.0)
    with pytest.raises(UserError, match="made with --small"):
        results.Section(tmp_path, "steps", False, CPU)
    (tmp_path / "steps.json").write_text("[]")
    with pytest.raises(UserError, match="not a result of this program"):
        results.Section(tmp_path, "steps", True, CPU)


def test_a_check_that_fails_is_told(tmp_path, capsys, monkeypatch):
    bad = {"checks": [{"what": "gradients", "error": 1.0, "limit": 1e-5, "ok": False, "note": ""}]}
    monkeypatch.setattr(steps, "measure", lambda *_: bad)
    with pytest.raises(UserError, match="1 things are not as they should be: yolov8n-assn: gradients"):
        call("--work", str(tmp_path), "--only", "steps")
    assert "**no**" in (tmp_path / "small" / "gpu_smoke.md").read_text()


def test_a_training_goes_on_where_it_was(tmp_path):
    run = training.plan(training.SMALL, "x.yaml", tmp_path)[1]
    assert {"--neck", "ssfpn", "--seed"} < set(run.command(CPU, 0))
    last = run.folder / "weights" / "last.pt"
    last.parent.mkdir(parents=True)
    save_checkpoint({"model": {}, "train": {"epoch": 1}}, last)
    assert run.command(CPU, 2)[:5] == ["train.py", "--resume", str(last), "--device", "cpu"]
    save_checkpoint({"model": {}}, last)
    assert run.command(CPU, 2) is None


@pytest.mark.parametrize("code", ["import time; time.sleep(60)",
                                  "import signal, time; signal.signal(2, signal.SIG_IGN); time.sleep(60)"])
def test_the_deadline_stops_trainings(tmp_path, monkeypatch, code):
    """Those that listen to an interrupt, and those that do not."""
    monkeypatch.setattr(training.Run, "command", lambda *_: ["-c", code])
    monkeypatch.setattr(training, "GRACE", 1.0)
    section, since = results.Section(tmp_path, "training", True, CPU), time.monotonic()
    runs = training.plan(training.SMALL, "x.yaml", tmp_path)
    assert training.measure(runs, section, CPU, since + 2.5, 2, 0) == []
    assert time.monotonic() - since < 15 and section.pieces == {}


def test_a_training_that_fails_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(training.Run, "command", lambda *_: ["-c", "raise SystemExit('error: no such data')"])
    section = results.Section(tmp_path, "training", True, CPU)
    runs = training.plan(training.SMALL, "x.yaml", tmp_path)[:1]
    (told,) = training.measure(runs, section, CPU, time.monotonic() + 60, 1, 0)
    assert "yolov8n seed 0: train.py ended with code 1: error: no such data" in told


def test_epoch_seconds_leave_validation_and_restarts_out():
    rows = [{"time": "10"}, {"time": "12", "metrics/AP": "0.1"}, {"time": "30"}, {"time": "5"}, {"time": "7"}]
    assert training.epoch_seconds(rows) == 2.0
    assert training.epoch_seconds(rows[:1]) == 10.0


def test_where_a_step_waits_is_told(monkeypatch):
    modes = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)

    def step() -> None:
        if modes[-1] == "error":
            raise RuntimeError("called a synchronizing CUDA operation")

    note = steps.waits(step)
    assert "tests/benchmarks/test_gpu_smoke.py:" in note and "synchronizing" in note
    assert modes == ["error", "default", "warn", "default"]
    assert steps.waits(lambda: None) == ""


def test_means_over_seeds():
    numbers = {"AP": 0.5, "AP50": 0.8, "AP_S": -1.0, "AP_M": 0.4, "AP_L": 0.6}
    same = {"model": "yolov8n", "val": numbers, "images_per_s": 99.0, "memory_gb": 4.0, "data": "bccd", "epochs": 100,
            "imgsz": 640, "batch": 16, "split": "test", "jobs": 3}
    pieces = {str(seed): {**same, "seed": seed, "test": {**numbers, "AP": 0.5 + seed / 10}} for seed in (0, 1, 2)}
    table = "\n".join(results.TABLES["training"](pieces))
    assert "| **yolov8n** | mean of 3 | 60.0 ± 10.0 | 80.0 ± 0.0 | - | 40.0" in table
