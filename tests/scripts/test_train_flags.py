"""What single flags of train.py do, and that none is taken without an effect."""

import argparse

import pytest
import torch
import yaml

import train
from engine.training.config import TrainConfig
from engine.training.recipe import load_recipe
from engine.training.resume import merge_resume_args
from tests.refusals import user_error
from tests.scripts.trainings import parsed
from tests.tiny import tiny_checkpoint, tiny_data
from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.errors import UserError, run_script
from utils.reporting.run_log import Board, read_csv


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tiny_data(tmp_path_factory.mktemp("ein Ordner mit Ümlaut"), train=5, val=3)


def test_a_size_that_is_no_multiple_of_the_stride_is_rounded_up_and_told(place, capsys):
    folder = train.main(parsed(place, "odd", "--imgsz", 50, 70))
    assert "rounded up to 64 96" in capsys.readouterr().out
    assert yaml.safe_load((folder / "args.yaml").read_text())["imgsz"] == [64, 96]
    assert load_checkpoint(folder / "weights/best.pt")["config"]["trained"]["imgsz"] == [64, 96]


def fake_epochs(monkeypatch, scores):
    """Epochs that cost nothing and validate to these AP."""
    saved, values = [], iter(scores)
    monkeypatch.setattr(train, "train_epoch", lambda *_: {})
    monkeypatch.setattr(train, "validate", lambda *_: {"metrics/AP": (ap := next(values)), "metrics/AP50": ap})
    monkeypatch.setattr(train, "save_checkpoints", lambda job, run, best: saved.append((run.epoch, best)))
    return saved


@pytest.mark.parametrize("flags, scores, saved", [
    (["--patience", 2], [.1, .3, .2, .2, .9], [(1, True), (2, True), (3, False), (4, False)]),
    (["--patience", 1, "--val-interval", 2], [.3, .4, .4], [(1, False), (2, True), (3, False), (4, True), (5, False)]),
    (["--patience", 2, "--nosave"], [.1, .3, .2, .2, .9], [(4, True)]),
    (["--noval"], [.1], [(1, False), (2, False), (3, False), (4, False), (5, True)]),
    (["--noval", "--nosave"], [-1.0], [(5, True)]),
    ([], [-1.0] * 5, [(1, False), (2, False), (3, False), (4, False), (5, True)]),
])
def test_patience_noval_and_nosave_together(place, tmp_path, monkeypatch, flags, scores, saved):
    config = TrainConfig.from_args(parsed(place, "x", "--epochs", 5, "--close-mosaic", 0, *flags))
    config = config.replace(val_interval=config.val_interval or 1)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    ema = argparse.Namespace(model=None)
    run = train.Training(None, ema, optimizer, None, None, None, None, None)
    seen = fake_epochs(monkeypatch, scores)
    loader = argparse.Namespace(set_epoch=lambda epoch, start: None, close_mosaic=int)
    train.fit(train.Job(config, tmp_path, None, None, None, loader, None, [], None, lambda *_: None), run)
    assert seen == saved


def test_ctrl_c_tells_how_to_go_on(place, monkeypatch, capsys):
    whole = train.train_epoch

    def interrupted(job, run):
        if run.epoch:
            raise KeyboardInterrupt
        return whole(job, run)

    monkeypatch.setattr(train, "train_epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train.main(parsed(place, "stopped", "--epochs", 3))
    assert f"train.py --resume '{place / 'stopped'}'" in capsys.readouterr().out
    monkeypatch.undo()
    words = ["--resume", str(place / "stopped"), "--workers", "0", "--device", "cpu"]
    with user_error("flag-conflict", "--batch-size"):
        train.main(train.build_parser().parse_args([*words, "--batch-size", "9"]))
    with user_error("nothing-to-resume", "--resume", "last.pt"):
        train.main(train.build_parser().parse_args(["--resume", str(place / "stopped/weights/best.pt")]))
    train.main(train.build_parser().parse_args([*words, "--epochs", "3"]))
    times = [float(row["time"]) for row in read_csv(place / "stopped/results.csv")]
    assert len(times) == 3 and times == sorted(times)


def test_a_run_is_not_resumed_with_other_classes(tmp_path, place):
    args = vars(parsed(place, "other"))
    last = tmp_path / "run/weights/last.pt"
    last.parent.mkdir(parents=True)
    save_checkpoint({"names": ["a", "b"], "train": {"args": {**args, "resume": False}}}, last)
    with user_error("class-mismatch", "['a', 'b']"):
        train.main(train.build_parser().parse_args(["--resume", str(last)]))


def test_settings_that_are_repeated_or_of_the_machine_may_be_given_with_resume(tmp_path):
    stored = {"train": {"args": {**vars(train.build_parser().parse_args([])), "epochs": 3, "workers": 0}}}
    args = train.build_parser().parse_args(["--resume", "--epochs", "3", "--workers", "1", "--exist-ok"])
    assert merge_resume_args(TrainConfig.from_args(args), stored, tmp_path / "last.pt").epochs == 3


@pytest.mark.parametrize("flags, code, named", [
    (["--label-smoothing", "0.1"], "unknown-key", "--label-smoothing"),
    (["--nosave", "--save-period", "2"], "flag-without-effect", "--save-period"),
    (["--storage", "sqlite:///x.db"], "flag-without-effect", "--storage"),
    (["--rect", "--tile", "64"], "flag-without-effect", "--rect"),
    (["--evolve", "1", "--resume"], "flag-without-effect", "drop --resume"),
    (["--imgsz", "32"], "bad-value", "5 images"), (["--imgsz", "32", "--batch", "1"], "bad-value", "5 images"),
    (["--freeze", "99"], "bad-value", "rows 0 to 22")])
def test_flags_that_cannot_work_are_told_before_anything_is_written(place, flags, code, named):
    with user_error(code, named):
        train.main(parsed(place, "wrong", *flags))
    assert not (place / "wrong").exists()


def test_a_full_disk_is_called_so(tmp_path, monkeypatch):
    (tmp_path / "last.pt").write_bytes(b"before")
    monkeypatch.setattr("shutil.disk_usage", lambda _: argparse.Namespace(free=0))
    monkeypatch.setattr("torch.save", lambda *_: (_ for _ in ()).throw(RuntimeError("enforce fail at x.cc:671")))
    with user_error("unwritable-file", "last.pt", "disk is full"):
        save_checkpoint({}, tmp_path / "last.pt")
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"before"]


@pytest.mark.parametrize("line", ["epochs: 0", "imgsz: -5", "epochs: 2.5", "batch_size: .inf"])
def test_a_recipe_cannot_ask_for_no_epochs(tmp_path, line):
    (tmp_path / "bad.yaml").write_text(line)
    with pytest.raises(UserError, match=r"bad.yaml: \w+: "):
        load_recipe(tmp_path / "bad.yaml")


def test_a_new_run_in_an_old_folder_hides_the_curves_of_the_old_one(tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for second, values in ((1e9, [0.1, 0.2, 0.3]), (2e9, [0.9])):
        monkeypatch.setattr("time.time", lambda second=second: second)  # event files are read in order of their second
        board = Board(tmp_path)
        for epoch, value in enumerate(values, 1):
            board.add({"lr": value}, epoch)
        board.close()
    assert [round(e.value, 3) for e in EventAccumulator(str(tmp_path)).Reload().Scalars("lr")] == [0.9]


def test_a_full_disk_is_one_sentence(monkeypatch, capsys):
    def full(_):
        raise OSError(28, "No space left on device", "/x/results.png")

    monkeypatch.setattr("sys.argv", ["train.py"])
    with pytest.raises(SystemExit) as stop:
        run_script(full, argparse.ArgumentParser())
    assert stop.value.code == 1 and "error: /x/results.png: No space left on device" in capsys.readouterr().err


@pytest.fixture(scope="module")
def weights(place):
    return tiny_checkpoint(place / "tiny.pt")  # three classes, the data have five


def test_weights_that_are_not_finite_are_refused(place, weights, tmp_path):
    stored = load_checkpoint(weights)
    stored["model"]["model.0.conv.weight"][0, 0, 0, 0] = float("nan")
    save_checkpoint(stored, tmp_path / "nan.pt")
    with user_error("not-finite", "nan.pt", "1 of", "model.0.conv.weight"):
        train.main(parsed(place, "nan", "--weights", tmp_path / "nan.pt"))
    assert not (place / "nan").exists()


def test_validation_goes_by_the_protocol_and_it_chooses_the_best(place, capsys):
    folder = train.main(parsed(place, "tiny", "--protocol", "tinyperson", "--size-bins", "8,16", "--save-best-by",
                               "AP50_<8", "--epochs", 2))
    printed, rows = capsys.readouterr().out, read_csv(folder / "results.csv")
    assert "    own: AP50_<8" in printed and "metrics/own/AP75_8-16" in rows[0] and "metrics/AP_S" in rows[0]
    assert (folder / "metrics.txt").read_text().startswith("NOT the numbers of tinyperson")
    best = load_checkpoint(folder / "weights/best.pt")["epoch"]
    scores = [float(row["metrics/own/AP50_<8"]) for row in rows]
    assert best == (1 + scores.index(max(scores)) if max(scores) > -1 else 2)


def test_a_number_that_is_none_is_refused_before_anything_is_written(place):
    with user_error("unknown-number", "AP_vt", "--protocol coco"):
        train.main(parsed(place, "none", "--save-best-by", "AP_vt"))
    assert not (place / "none").exists()
