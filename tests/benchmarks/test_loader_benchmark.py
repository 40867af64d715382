"""benchmarks/loader.py from its command line, in small, without a peer."""

import json
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import loader
from benchmarks.loading.clock import epoch, worker_seconds
from benchmarks.loading.ours import Epochs, make_loader
from benchmarks.peers import find_peer, yolo_rows
from tests.data.pictures import make_records
from tests.refusals import refused
from tests.running import run
from utils.errors import UserError


@pytest.mark.slow
def test_the_command_writes_both_tables(tmp_path):
    make_records(tmp_path / "images", [(40, 60), (64, 48), (50, 50)])
    done = run("-m", "benchmarks.loader", "--small", "--images", tmp_path / "images", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads((tmp_path / "out" / "loader_cpu.json").read_text())
    assert list(result["pieces"]) == ["uncached, 1 workers", "RAM-cached, 1 workers"] and result["versions"]
    for (row,) in result["pieces"].values():
        assert row["images"] == 8 and row["per_cpu_second"] > 0 < row["per_second"]
    found = result["profile"]
    assert found["sample"] == pytest.approx(sum(found["stages"].values()), rel=0.05) and found["floor"] > 0
    assert all(milliseconds > 0 for milliseconds in found["stages"].values())  # each is still what a batch is made by
    page = (tmp_path / "out" / "loader_cpu.md").read_text()
    assert "--small" in page and page.count("| uncached") == 1 and "RAM-cached, 1 workers" in page


def test_a_peer_has_the_policy_of_yolo_alone(monkeypatch):
    monkeypatch.setattr(loader, "find_peer", lambda args: "python")
    with refused("flag-conflict", "--peer", "policy ssd"):
        loader.main(loader.build_parser().parse_args(["--policy", "ssd", "--peer", "ultralytics"]))


def test_an_epoch_decodes_each_image_about_once(tmp_path, monkeypatch):
    args = loader.build_parser().parse_args(["--images", str(tmp_path / "images")])
    make_records(tmp_path / "images", [(40, 60), (64, 48), (50, 50)])
    config = {**loader.lay_out(tmp_path / "work", args, 48), "imgsz": 64, "batch": 16, "cache": None}
    epochs = Epochs(make_loader(config, 0))
    store, decoded = epochs.loader.dataset.store, []
    monkeypatch.setattr(store, "load_own", lambda index, own=store.load_own: decoded.append(index) or own(index))
    for _ in range(3):
        decoded.clear()
        assert sum(map(len, epochs)) == 48
        assert 40 <= len(decoded) == len(set(decoded))  # an image that no mosaic shows is not decoded


def _row(rate: float) -> dict:
    return {"name": "x", "program": "x", "torch": "2", "opencv": "5", "per_cpu_second": rate, "slowest": rate,
            "fastest": rate, "per_second": rate, "rounds": 1, "images": 8}


def test_the_ratio_is_ours_over_the_peers():
    result = {"command": "c", "date": "2026-01-01T", "device": "cpu", "cores": 2, "versions": {}, "batch": 4,
              "imgsz": 64, "images": 8, "source": "s", "policy": "yolo", "small": False,
              "pieces": {"uncached, 1 workers": [_row(100.0), _row(250.0)]},
              "profile": {"stages": {"decode": 1.0}, "medians": {"decode": 1.0}, "sample": 1.0, "median_sample": 1.0,
                          "floor": 0.5, "median_floor": 0.5, "samples": 8}}
    assert "| 100 (100 to 100) | 250 (250 to 250) | **2.50** |" in loader.write_page(result)


def test_a_missing_peer_is_told(tmp_path):
    args = loader.build_parser().parse_args(["--peer", "ultralytics", "--peer-python", str(tmp_path / "none")])
    with pytest.raises(UserError, match="--peer-python .*README"):
        find_peer(args)


def test_labels_are_written_as_fractions(tmp_path):
    (record,) = make_records(tmp_path, [(40, 60)])
    rows = np.array([line.split() for line in yolo_rows(record).splitlines()], float)
    assert len(rows) == 4  # the crowd has no row
    size = np.array([60, 40])
    low, high = (rows[:, 1:3] - rows[:, 3:] / 2) * size, (rows[:, 1:3] + rows[:, 3:] / 2) * size
    assert np.allclose(np.concatenate((low, high), 1), record.boxes[:4], atol=1e-3)


def test_cpu_time_counts_children_that_live_and_that_have_ended():
    since = worker_seconds()
    code = "sum(range(3_000_000)); print(1, flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        alive = worker_seconds() - since
        child.communicate(b"\n")
    assert alive > 0.01 and worker_seconds() - since >= alive - 0.02


def test_a_round_pays_for_what_its_workers_go_on_with():
    code = "import time\nprint(1, flush=True)\nwhile time.process_time() < 0.4: pass\ninput()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        found = epoch([range(3), range(2)], len)
        assert child.poll() is None  # it waits, but does nothing
        child.communicate(b"\n")
    assert found["images"] == 5 and found["cpu"] > 0.25 and 0.25 < found["wall"] < 10
    idle = epoch([range(3)], len)
    assert idle["cpu"] < 0.2 and idle["wall"] < 0.2  # the waiting itself is nobody's
