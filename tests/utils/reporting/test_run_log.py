"""The folder, the CSV, the event files and the progress line of a run."""

import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from tests.refusals import refused
from utils.files import write_bytes
from utils.reporting.run_log import Board, CsvLog, LossMeter, check_name, increment_dir, progress_line, read_csv
from utils.structures import Targets, pack_targets


def test_folders_count_up_as_in_yolo(tmp_path):
    made = [increment_dir(tmp_path / "runs" / "train", "exp").name for _ in range(3)]
    assert made == ["exp", "exp2", "exp3"]
    assert increment_dir(tmp_path / "runs" / "train", "exp", exist_ok=True).name == "exp"
    assert increment_dir(tmp_path, "new", exist_ok=True).is_dir()


def test_runs_that_start_together_do_not_share_a_folder(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: increment_dir(tmp_path, "exp"), range(16)))
    assert len(set(made)) == 16


def test_a_file_in_the_way_is_told(tmp_path):
    (tmp_path / "runs").write_text("")
    with refused("unwritable-folder", "runs"):
        increment_dir(tmp_path / "runs", "exp")
    with refused("unwritable-folder", "runs", "--project"):
        increment_dir(tmp_path, "runs", exist_ok=True)


def test_csv_resumes_behind_the_last_whole_epoch(tmp_path):
    path = tmp_path / "results.csv"
    log = CsvLog(path)
    for epoch in (1, 2, 3):
        log.append({"epoch": epoch, "train/box": 1 / epoch})
    CsvLog(path, from_epoch=2).append({"epoch": 3, "train/box": 9.0, "metrics/AP": None, "note, odd": "a"})
    assert path.read_text() == ("epoch,train/box,metrics/AP,\"note, odd\"\n1,1,,\n2,0.5,,\n3,9,,a\n")
    CsvLog(path).append({"epoch": 1})  # a new run into an old folder begins anew
    assert path.read_text() == "epoch\n1\n"
    assert [p.name for p in tmp_path.iterdir()] == ["results.csv"]


def test_csv_of_other_hands_is_told(tmp_path):
    path = tmp_path / "results.csv"
    path.write_text("    epoch,  loss\n  1, 2.5\n  broken\n")
    with refused("bad-row", "line 3", "epoch"):
        read_csv(path)
    path.write_text("    epoch,  loss\n  1, 2.5\n")
    assert read_csv(path) == [{"epoch": "1", "loss": "2.5"}]
    with refused("unreadable-file", "none.csv"):
        read_csv(tmp_path / "none.csv")


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_bytes(path, b"old")
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    with refused("unwritable-file", r"a\.txt", "No space left"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_board_writes_events(tmp_path):
    pytest.importorskip("tensorboard")
    board = Board(tmp_path)
    board.add({"epoch": 1, "train/box": 0.5, "name": "x", "nothing": None}, 1)
    board.close()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path)).Reload()
    assert events.Tags()["scalars"] == ["train/box"]
    assert events.Scalars("train/box")[0].value == 0.5


def test_board_is_quiet_without_tensorboard(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    board = Board(tmp_path)
    board.add({"a": 1.0}, 1)
    board.close()
    assert capsys.readouterr().err.count("TensorBoard is not installed") == 1


def test_progress_line_says_all():
    meter = LossMeter()
    meter.add(["box", "cls"], [8.0, 4.0], 4)
    meter.add(["box", "cls"], [0.0, 4.0], 4)
    assert meter.means() == {"box": 1.0, "cls": 1.0}
    crowd = Targets(torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64), torch.tensor([False, True]))
    line = progress_line(0, 100, 3.21, meter, pack_targets([crowd, Targets.empty()]), 640)
    assert line.startswith("  1/100  3.2G  box 1.0000  cls 1.0000  labels   1  640 px  ")
    assert line.endswith(" img/s")


@pytest.mark.parametrize("name", ["../x", "a/../../x", "..", ".", "a/..", "", "/x", ".hidden"])
def test_a_name_stays_in_its_project(tmp_path, name):
    with refused("bad-value", "--name", "--project"):
        increment_dir(tmp_path / "project", name)
    assert not list(tmp_path.iterdir())
    with refused("bad-value", "--name"):
        check_name(name)


def test_a_name_may_hold_folders(tmp_path):
    assert increment_dir(tmp_path, "a/b") == tmp_path / "a/b" and increment_dir(tmp_path, "a..b").is_dir()
