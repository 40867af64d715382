"""The step benchmark: what it tells the programs, how it times them, and (slow) the whole of it in its small form."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import train_step
from benchmarks.peers import find_peer
from benchmarks.record import Section
from benchmarks.steps import contest, ours, table
from benchmarks.steps.batches import BOXES, NAMES, draw_data, load_batch, save_batch
from benchmarks.steps.rounds import Rounds
from data import load_index
from tests.running import run
from utils.errors import UserError

CPU = torch.device("cpu")


def arguments(*words: str):
    return train_step.build_parser().parse_args(list(words))


def row(name: str, program: str, ms: float, cpu: float, memory: float, threads: int = 2) -> dict:
    return {"name": name, "program": program, "source": "resident", "precision": "float32", "layout": "contiguous",
            "optimizer": "AdamW", "images_per_s": 8e3 / ms, "ms": ms, "fastest_ms": ms, "slowest_ms": ms, "cpu_s": cpu,
            "memory_gb": memory, "first_step_s": 1.0, "threads": threads}


def test_both_sides_read_the_same_batch(tmp_path):
    save_batch(tmp_path / "b.npz", 3, 64)
    images, targets = load_batch(tmp_path / "b.npz", 64)
    assert images.shape == (3, 3, 64, 64) and images.dtype == torch.uint8
    assert targets.boxes.shape == (3, BOXES, 4) and targets.valid.all()
    with np.load(tmp_path / "b.npz") as stored:
        centre, side = stored["boxes"][BOXES, :2] * 64, stored["boxes"][BOXES, 2:] * 64  # the first of image 1
        assert stored["rows"][BOXES] == 1
    np.testing.assert_allclose(targets.boxes[1, 0], [*(centre - side / 2), *(centre + side / 2)], atol=1e-4)


def test_images_on_disk_have_the_same_boxes_in_both_forms(tmp_path):
    path = draw_data(tmp_path / "scenes", 4, 64)
    ours_index, scenes = load_index(path, "train"), load_index(tmp_path / "scenes/scenes.yaml", "train")
    boxes = {Path(r.path).name: r.boxes[~r.ignore] for r in scenes.records}
    assert ours_index.names == NAMES and len(ours_index.records) == 4 and sum(map(len, boxes.values())) > 0
    for record in ours_index.records:
        np.testing.assert_allclose(record.boxes, boxes[Path(record.path).name], atol=1e-3)


def test_rounds_time_the_steps_they_were_told_to(monkeypatch):
    """Two to pass, then three timed ones: the clock is read before the third step and after the fifth."""
    steps, told, clock = [], [], []
    monkeypatch.setattr(os, "dup2", lambda *_: None)
    rounds = Rounds(CPU)
    monkeypatch.setattr(rounds, "_say", told.append)
    monkeypatch.setattr("time.perf_counter", lambda: clock.append(len(steps)) or float(len(steps)))
    monkeypatch.setattr(sys, "stdin", iter_lines("2 3\n", "0 1\n", ""))
    with pytest.raises(SystemExit):
        while True:
            rounds.before_step()
            steps.append(None)
    assert [(t["steps"], t["wall"]) for t in told] == [(3, 3.0), (1, 1.0)]
    assert clock == [2, 5, 5, 6]


def iter_lines(*lines: str):
    class Stream:
        left = list(lines)

        def readline(self) -> str:
            return self.left.pop(0)

    return Stream()


def test_the_plan_of_a_gpu_has_every_source_with_and_without_compile(tmp_path):
    words, cuda = ("--peer", "ultralytics", "--work", str(tmp_path)), torch.device("cuda", 0)
    plan = train_step.make_plan(arguments(*words), cuda)
    assert len(plan) == 2 * 2 * 3 and plan[0] == "yolov8n batch 64 resident"
    sources = {key.split()[-1] for key in plan}
    found = {source: train_step.contenders(f"yolov8n batch 2 {source}", arguments("--small", *words), cuda, tmp_path,
                                           "python") for source in sources}
    names = {source: [(c.name, c.config["source"], c.config.get("compile")) for c in those]
             for source, those in found.items()}
    assert names == {
        "resident": [("ultralytics", "resident", None), ("ours", "resident", False),
                     ("ours, compiled", "resident", True)],
        "gpu": [("ultralytics", "workers", None), ("ours", "gpu", False), ("ours, compiled", "gpu", True)],
        "workers": [("ultralytics", "workers", None), ("ours", "workers", False)]}
    assert "--compile" in ours.flags_of(found["resident"][-1].config)


def test_ratios_are_to_the_peer_of_the_same_piece(tmp_path):
    section = Section(tmp_path, "train_step_cpu", False, CPU)
    rows = [row("ultralytics", "ultralytics 8", 300, 2.0, 2.0, threads=1), row("ours", "ours", 100, 1.0, 1.0),
            row("ultralytics, more", "ultralytics 8", 150, 2.0, 2.0)]
    section.add("yolov8n batch 8 resident", {"model": "yolov8n", "batch": 8, "imgsz": 640, "source": "resident",
                                             "threads": 2, "workers": 0, "rows": rows}, 1.0)
    lines = table.write_table(section, ["yolov8n batch 8 resident", "yolov8s batch 8 resident"]).splitlines()
    assert next(line for line in lines if line.startswith("| ours")).endswith("| 3.00x | 1.50x | 2.00x | 0.50x |")
    assert "1 of 2 pieces." in lines


ANSWERS = """
import json, sys
if json.load(open(sys.argv[1]))["batch"] == 1:
    sys.exit("no such model")
print("a library says hello")
print(json.dumps({"program": "ultralytics 8"}), flush=True)
for line in sys.stdin:
    print(json.dumps({"steps": int(line.split()[1]), "wall": 2.0, "cpu": 1.0, "memory_gb": 3.0}), flush=True)
"""


def test_a_program_that_fails_is_told_and_the_others_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr(contest, "PEER_SCRIPT", tmp_path / "peer.py")
    (tmp_path / "peer.py").write_text(ANSWERS)
    config = {"threads": 1, "batch": 1, "source": "resident"}
    with pytest.raises(UserError, match="them: ended: no such model"):
        contest.compete([contest.contender("them", config, sys.executable)], tmp_path, 1, 1, 0)
    both = [contest.contender("them", config, sys.executable),
            contest.contender("others", {**config, "batch": 8}, sys.executable)]
    broken, fine = contest.compete(both, tmp_path, 2, 4, 0)
    assert "no such model" in broken["failed"]
    assert fine["images_per_s"] == 16 and fine["cpu_s"] == 0.25 and fine["rounds"] == 2
    assert any("did not run" in line[0] for line in table.rows_of({"rows": [broken]}))


@pytest.mark.parametrize("peer", ["nowhere/python", sys.executable])
def test_a_missing_peer_is_told_before_anything_is_measured(peer):
    args = arguments("--peer", "ultralytics", "--peer-python", peer)
    with pytest.raises(UserError, match="README"):
        find_peer(args)
    assert find_peer(arguments("--peer", "none", "--peer-python", peer)) == ""


@pytest.mark.slow
def test_the_small_form_runs_from_end_to_end(tmp_path):
    for _ in range(2):  # the second call finds everything done
        done = run("-m", "benchmarks.train_step", "--small", "--device", "cpu", "--work", tmp_path, "--sources",
                   "resident", "gpu")
        assert done.returncode == 0, done.stderr
        assert "everything is done" in done.stdout
    pieces = json.loads((tmp_path / "small/train_step_cpu.json").read_text())["pieces"]
    assert list(pieces) == ["yolov8n batch 2 resident", "yolov8n batch 2 gpu"]
    assert [r["name"] for r in pieces["yolov8n batch 2 resident"]["rows"]] == ["ours", "ours, fp32",
                                                                               "ours, fp32 contiguous"]
    assert all(r["images_per_s"] > 0 and r["cpu_s"] > 0 for piece in pieces.values() for r in piece["rows"])
    assert pieces["yolov8n batch 2 resident"]["rows"][2]["layout"] == "contiguous"
