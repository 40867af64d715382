"""benchmarks.ablate: planning, collapsing and refusals, claims, resumption with other programs, statistics."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from benchmarks.ablate import plan as planning
from benchmarks.ablate.report import Line, Report, as_latex, as_markdown
from benchmarks.ablate.runs import Machine, Runner
from benchmarks.ablate.statistics import ONE_SEED, difference, verdict, widening
from benchmarks.ablate.store import PATIENCE, Store
from engine.evaluation.comparison.bootstrap import Difference
from utils.errors import UserError
from utils.signals import StopRequest

pytest.importorskip("optuna")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ablate")
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump({"format": "shapes", "path": str(folder / "shapes"), "train": 4, "val": 2, "test": 2,
                                    "size": 64, "seed": 0}), encoding="utf-8")
    return path


def words(data):
    return ["--data", str(data), "--imgsz", "64", "--epochs", "1", "--batch-size", "2"]


def test_a_grid_is_checked_costed_and_equal_arms_are_one(data):
    rows, notes = planning.grid({"cfg": ["yolov8n", "yolov8n-assn"], "neck": ["pan", "assn"]})
    plan = planning.make_plan(rows, words(data), planning.seeds_of([2]), notes)
    assert [arm.name for arm in plan.arms] == ["yolov8n-pan", "yolov8n-assn"]  # a neck by name or by flag is one
    assert len([note for note in plan.notes if "trains the same" in note]) == 2 and plan.split == "test"
    assert [run.key for run in plan.runs][:2] == ["yolov8n-pan-seed0", "yolov8n-assn-seed0"]
    assert plan.arms[1].parameters > plan.arms[0].parameters and plan.arms[1].flops > plan.arms[0].flops
    assert planning.budget(plan).startswith("equal budgets")


def test_without_a_neck_there_is_no_start_of_one():
    rows, notes = planning.grid({"neck": ["pan", "assn"], "start": ["identity", "published"]})
    assert [planning.words_of(row) for row in rows] == [("--neck", "pan"), ("--neck", "assn", "--start", "identity"),
                                                        ("--neck", "assn", "--start", "published")]
    assert any("no added neck" in note for note in notes)


def test_arms_of_a_grid_are_named_by_what_differs():
    rows, notes = planning.grid({"cfg": ["yolov8n"], "neck": ["pan", "assn"], "start": ["identity", "published"]})
    assert [planning.name_of(row) for row in rows] == ["pan", "assn-identity", "assn-published"]
    assert notes[0] == "the same in all arms: --cfg yolov8n"
    assert planning.words_of(rows[0]) == ("--cfg", "yolov8n", "--neck", "pan")
    rows, notes = planning.grid({"cfg": ["yolov8n"]})
    assert planning.name_of(rows[0]) == "yolov8n" and not notes


@pytest.mark.parametrize("row, said", [({"assign": "ota"}, "ota"), ({"neck": "asn"}, "asn"), ({"data": "x"}, "--data"),
                                       ({"nek": "pan"}, "--nek"), ({"seed": 3}, "--seed")])
def test_an_arm_that_cannot_be_trained_is_refused_before_any_training(data, row, said):
    with pytest.raises(UserError, match=said):
        planning.make_plan([{"cfg": "yolov8n"}, {"cfg": "yolov8n", **row}], words(data), [0])


def test_flags_of_this_program_are_refused(data):
    with pytest.raises(UserError, match="--seed"):
        planning.make_plan([{"cfg": "yolov8n"}], [*words(data), "--seed", "3"], [0])


def test_one_machine_has_a_run_and_a_dead_one_loses_it(tmp_path):
    storage, clock = f"sqlite:///{tmp_path / 'study.db'}", [1e9]
    one, two = (Store(storage, "a", now=lambda: clock[0]) for _ in range(2))
    two.host = "elsewhere"
    assert one.claim("x") and not two.claim("x") and list(two.holders()) == ["x"]
    clock[0] += PATIENCE + 1
    assert two.claim("x")  # the first machine was silent
    two.complete("x", 0.5, {"values": {}})
    assert not one.claim("x") and list(one.results()) == ["x"]
    one.same("flags", ["a"], "")
    with pytest.raises(UserError, match="flags of this ablation|flags"):
        two.same("flags", ["b"], "give another --name")


def test_a_run_that_failed_can_be_taken_again(tmp_path):
    store = Store(f"sqlite:///{tmp_path / 'study.db'}", "a")
    assert store.claim("x")
    store.release("x", "no memory")
    assert store.errors() == {"x": "no memory"} and store.claim("x")


FAKE = """
import json, pathlib, sys
words = sys.argv[1:]
folder = pathlib.Path(words[words.index("--project") + 1]) / words[words.index("--name") + 1]
folder.mkdir(parents=True, exist_ok=True)
record = {"protocols": [{"protocol": "coco", "values": {"AP": 0.25}}], "run": {}}
(folder / "metrics.json").write_text(json.dumps(record))
(folder / "results.csv").write_text("epoch,time,images_per_s,memory_gb\\n1,2.0,3.0,1.0\\n")
"""


def test_finished_runs_are_not_repeated_and_failed_ones_are(data, tmp_path):
    rows, _ = planning.grid({"cfg": ["yolov8n"], "neck": ["pan", "assn"]})
    plan = planning.make_plan(rows, words(data), [0, 1])
    started, broken = [], ["assn-seed1"]

    def fake(command, log, environment, lock):
        started.append((command[0], command[command.index("--name") + 1]))
        code = "raise SystemExit('broken')" if started[-1][1] in broken else FAKE
        return subprocess.Popen([sys.executable, "-c", code, *command], stdout=log, stderr=log)

    def work():
        runner = Runner(plan, tmp_path, Store(f"sqlite:///{tmp_path / 'study.db'}", "a"),
                        Machine(torch.device("cpu"), jobs=2), fake)
        with StopRequest() as stopping:
            runner.work(stopping, lambda _: None)
        return runner

    first = work()
    assert list(first.failed) == broken and "broken" in first.failed[broken[0]]
    assert len(started) == 7  # train and test of three, train of the broken one
    started.clear()
    broken.clear()
    second = work()
    assert not second.failed and started == [("train.py", "assn-seed1"), ("val.py", "assn-seed1")]
    assert len(second.store.results()) == 4 and work().store.results() and len(started) == 2
    events = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [event["run"] for event in events if "error" in event] == ["assn-seed1"]


def runs_of(values, resamples=400, images=0.01, seed=0):
    """(n, 1 + B, 1): seeds of some means, with the same noise of images."""
    noise = np.random.default_rng(seed).normal(0, images, resamples)
    return np.stack([np.r_[value, value + noise] for value in values])[:, :, None]


def test_equal_arms_are_not_told_apart_and_a_constructed_difference_is():
    same, = difference(runs_of([0.50, 0.52, 0.54]), runs_of([0.51, 0.51, 0.54]))
    assert same.value == pytest.approx(0) and same.low < 0 < same.high
    clear, = difference(runs_of([0.50, 0.51, 0.52]), runs_of([0.70, 0.72, 0.71]))
    assert clear.value == pytest.approx(0.2) and 0.15 < clear.low < 0.2 < clear.high < 0.25
    exact, = difference(runs_of([0.5]), runs_of([0.6]))  # the images are the same: their noise cancels
    assert (exact.low, exact.high) == pytest.approx((0.1, 0.1))


def test_seeds_are_pairs_as_images_are():
    """What a seed does to both arms cancels: seeds that vary ten times as much as the difference hide nothing."""
    gain, = difference(runs_of([0.30, 0.40, 0.50]), runs_of([0.31, 0.41, 0.51]))
    assert (gain.low, gain.high) == pytest.approx((0.01, 0.01))


def test_few_seeds_are_widened_to_the_interval_of_student():
    """Two seeds, without noise of images: the drawn mean of differences 0 and 1 deviates by at most 1/2, widened."""
    gain, = difference(runs_of([0.0, 0.0], 4000, images=0), runs_of([0.0, 1.0], 4000, images=0))
    factor = np.sqrt(2) * 12.706205 / 1.959964  # t with 1 degree of freedom
    assert widening(2) == pytest.approx(factor, rel=1e-5) and gain.high == pytest.approx(0.5 + factor / 2, rel=1e-5)


def test_no_more_is_said_than_the_seeds_allow():
    better, unclear = Difference(0.1, 0.05, 0.15), Difference(0.1, -0.05, 0.25)
    assert verdict(better, 1) == ONE_SEED and verdict(better, 5) == "better"
    assert verdict(Difference(-0.1, -0.2, -0.05), 5) == "worse"
    assert verdict(unclear, 3) == "not told apart with 3 seeds"


def test_tables_mark_what_is_told_apart():
    arms = [planning.Arm(name, (), None, 3_000_000, 2e9) for name in ("pan", "assn_x")]
    runs = [[{"seed": seed, "seconds": 1.0, "values": {"AP": value, "AP_S": None}} for seed, value in enumerate(values)]
            for values in ((0.1, 0.2), (0.3, 0.4))]
    lines = [Line(arms[0], runs[0]), Line(arms[1], runs[1], {"AP": Difference(0.2, 0.1, 0.3)}, compared=2)]
    report = Report(planning.Plan([], [], (), "test", {}), lines, ["AP", "AP_S"], [])
    assert as_markdown(report).splitlines()[2:] == [
        "| pan | 2 | 0.150 ± 0.071 | - | 3.00 | 2.00 | - |", "| assn_x | 2 | 0.350 ± 0.071 | - | 3.00 | 2.00 | - |", "",
        "| minus pan | AP | AP_S |", "| --- | --- | --- |", "| assn_x | **+0.200 [+0.100, +0.300]** | - |"]
    assert r"assn\_x & 2 & 0.350 $\pm$ 0.071$^{\dagger}$ & -- & 3.00 & 2.00 & - \\" in as_latex(report)
    lines[1].compared = 1
    assert "**" not in as_markdown(report) and "dagger" not in as_latex(report)


@pytest.mark.slow
def test_a_tiny_grid_from_end_to_end(data, tmp_path):
    command = [sys.executable, "-m", "benchmarks.ablate", "--cfg", "yolov8n", "--neck", "pan", "assn", "--seeds", "2",
               *words(data), "--device", "cpu", "--workers", "0", "--threads", "1", "--jobs", "2", "--bootstrap", "20",
               "--project", str(tmp_path), "--", "--size-bins", "8,16"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    assert "95 % interval" in done.stdout and "AP_8-16" in done.stdout
    written = {path.name for path in (tmp_path / "exp").iterdir()}
    assert {"table.txt", "table.csv", "table.tex", "table.md", "AP.png", "log.jsonl"} <= written
    again = subprocess.run([*command[:-3], "--report", *command[-3:]], capture_output=True, text=True,
                           cwd=Path(__file__).parents[2])
    assert again.returncode == 0 and "taken" not in again.stdout
