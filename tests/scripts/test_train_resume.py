"""What may change when a run goes on, what is refused, and what is told; by what was given, not by what differs."""

import shutil

import cv2
import numpy as np
import pytest
import yaml

import train
from data.index import load_index
from data.labels.records import RecordTable
from engine.training.config import TrainConfig
from engine.training.fingerprint import data_changed, fingerprint
from engine.training.resume import merge_resume_args
from tests.refusals import user_error
from tests.scripts.trainings import parsed, rows
from tests.tiny import NAMES, picture
from utils.checkpoint import load_checkpoint
from utils.cli import given
from utils.errors import UserError
from utils.parser import Parser


def yolo_data(folder, name="data.yaml", names=NAMES):
    """Five pictures to train on and two to validate with, one box each, and a YAML beside them."""
    for split, count in (("train", 5), ("val", 2)):
        for number in range(count):
            picture(folder / f"ds/images/{split}/{number}.png", number, (48, 64))
            label = folder / f"ds/labels/{split}/{number}.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text(f"{number % len(names)} 0.5 0.5 0.4 0.4\n")
    write_yaml(folder / name, folder / "ds", names)
    return folder


def write_yaml(path, root, names=NAMES):
    path.write_text(yaml.safe_dump({"path": str(root), "train": "images/train", "val": "images/val", "names": names}))


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A folder with data and a run `run` of three epochs that was interrupted in its second, by a user who typed a size
    that is no multiple of the stride and let the batch be measured."""
    place = yolo_data(tmp_path_factory.mktemp("resume"))

    def ends(*_):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "train_epoch", lambda job, run, whole=train.train_epoch: (ends if run.epoch else whole)(
            job, run))
        with pytest.raises(KeyboardInterrupt):
            train.main(parsed(place, "run", "--data", place / "data.yaml", "--epochs", 3, "--imgsz", 50, "--batch", -1,
                              "--patience", 50))
    return place


@pytest.fixture
def place(stopped, tmp_path):
    """A copy of it, with all paths as they were."""
    shutil.copytree(stopped, tmp_path / "copy")
    write_yaml(tmp_path / "copy/data.yaml", tmp_path / "copy/ds")
    return tmp_path / "copy"


def resume(place, *words, data=True):
    extra = ["--data", str(place / "data.yaml")] if data else []
    return train.main(train.build_parser().parse_args(["--resume", str(place / "run"), "--device", "cpu", "--workers",
                                                       "0", *extra, *map(str, words)]))


def merged(stopped, *words):
    path = stopped / "run/weights/last.pt"
    return merged_with(load_checkpoint(path), path, *map(str, words))


def merged_with(stored, path, *words):
    args = train.build_parser().parse_args(["--resume", str(path), *words])
    return merge_resume_args(TrainConfig.from_args(args), stored, path)


def test_what_was_given_is_known_under_every_alias_and_at_its_default():
    parser = train.build_parser()
    assert given(parser.parse_args([])) == {}
    words = ["--img", "640", "--batch", "16", "--pati", "100", "--notest", "--resume", "--cache", "--seed=0"]
    assert given(parser.parse_args(words)) == {"imgsz": [640], "batch_size": 16, "patience": 100, "noval": True,
                                               "resume": True, "cache": "ram", "seed": 0}
    assert isinstance(parser, Parser) and "given" not in vars(parser.parse_args([]))["given"]


def test_a_flag_at_its_default_is_heard(stopped):
    assert merged(stopped).patience == 50
    assert merged(stopped, "--patience", 100).patience == 100
    assert merged(stopped, "--amp", "auto").amp == "auto" and merged(stopped).amp == "fp32"
    with user_error("flag-conflict", "--seed"):
        path = stopped / "run/weights/last.pt"
        stored = load_checkpoint(path)
        stored["train"]["args"]["seed"] = 7
        merged_with(stored, path, "--seed", "0")


@pytest.mark.parametrize("word, value", [("imgsz", ["64"]), ("imgsz", 10**9), ("epochs", "3"), ("patience", -1),
                                         ("rect", "yes"), ("data", 7), ("batch_size", True), ("tile", [[]]),
                                         ("size_bins", [16.0, 8.0]), ("size_bins", "8"), ("eval_iou", [[0.5]]),
                                         ("eval_iou", [7]), ("protocol", "other"), ("epochs", [5])])
def test_a_setting_that_no_flag_could_have_said_is_told(stopped, word, value):
    path = stopped / "run/weights/last.pt"
    stored = load_checkpoint(path)
    stored["train"]["args"][word] = value
    with user_error("corrupt-checkpoint", path, f"--{word.replace('_', '-')}"):
        merged_with(stored, path)


def test_sizes_and_overlaps_of_the_validation_are_kept(stopped):
    path = stopped / "run/weights/last.pt"
    stored = load_checkpoint(path)
    stored["train"]["args"] |= {"size_bins": [8.0], "eval_iou": [0.25, 0.5], "protocol": "aitod"}
    config = merged_with(stored, path)
    assert (config.size_bins, config.eval_iou, config.protocol) == ((8.0,), (0.25, 0.5), "aitod")
    with user_error("flag-conflict", "--size-bins"):
        merged_with(stored, path, "--size-bins", "8,16")
    for name in ("size_bins", "eval_iou", "protocol"):  # a checkpoint of an earlier version
        del stored["train"]["args"][name]
    assert merged_with(stored, path).protocol == "coco"


@pytest.mark.parametrize("words", [["--optimizer", "SGD"], ["--batch", "16"], ["--img", "640"], ["--name", "exp"],
                                   ["--freeze", "3"], ["--close-mosaic", "0"], ["--tile-o", "0.2", "--tile", "64"]])
def test_what_cannot_change_is_refused_even_at_its_default(stopped, words):
    with user_error("flag-conflict", "--resume", stopped / "run/weights/last.pt"):
        merged(stopped, *words)


def test_the_first_command_may_be_repeated(stopped):
    again = merged(stopped, "--img", 50, "--batch", -1, "--epochs", 3, "--cfg", "yolov8n", "--name", "run",
                   "--close", 1)
    assert again.imgsz == (64,) and again.batch_size == 5
    assert merged(stopped, "--imgsz", 64, "--batch", 5).batch_size == 5


def test_more_epochs_go_on_and_fewer_than_done_are_refused(place, capsys):
    with user_error("flag-conflict", "--epochs 1", "1 of 3"):
        resume(place, "--epochs", 1)
    folder = resume(place, "--epochs", 4)
    told = capsys.readouterr().out
    assert "--epochs 4 instead of 3: from here on the learning rate" in told
    assert [row["epoch"] for row in rows(folder)] == ["1", "2", "3", "4"]
    with user_error("nothing-to-resume", "4 epochs", f"python train.py --weights {folder}/weights/last.pt --data "
                    f"{place}/data.yaml --imgsz 64 --epochs 9"):
        resume(place, "--epochs", 9)


def test_data_that_moved_are_named_anew(place, capsys):
    (place / "ds").rename(place / "elsewhere")
    with pytest.raises(UserError, match="have moved since, .*: --resume ... --data"):
        resume(place)
    write_yaml(place / "new.yaml", place / "elsewhere")
    folder = resume(place, "--data", place / "new.yaml", data=False)
    assert "has changed" not in capsys.readouterr().out
    last = load_checkpoint(folder / "weights/last.pt")
    assert last["config"]["trained"]["data"] == str(place / "new.yaml")


def other_box(place):
    (place / "ds/labels/train/1.txt").write_text("1 0.5 0.5 0.4 0.3\n")


def other_class(place):
    (place / "ds/labels/val/1.txt").write_text("0 0.5 0.5 0.4 0.4\n")


def one_more(place):
    picture(place / "ds/images/train/9.png", 9, (48, 64))
    (place / "ds/labels/train/9.txt").write_text("0 0.5 0.5 0.4 0.4\n")


def another_picture(place):
    assert cv2.imwrite(str(place / "ds/images/val/0.png"), np.zeros((48, 64, 3), np.uint8))


CHANGES = {other_box: "training split's labels", other_class: "validation split's labels",
           one_more: "training split has 6 images instead of 5, 6 boxes instead of 5",
           another_picture: "validation split's image files"}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_changed_data_are_told_and_refused(place, change):
    change(place)
    with user_error("data-changed", "data.yaml", CHANGES[change], "--allow-data-change"):
        resume(place)


def test_changed_data_are_taken_where_that_is_allowed(place, capsys):
    one_more(place)
    folder = resume(place, "--allow-data-change")
    assert "--allow-data-change: " in capsys.readouterr().out and len(rows(folder)) == 3


def test_data_under_another_name_and_place_are_the_same(tmp_path):
    yolo_data(tmp_path / "a")
    shutil.copytree(tmp_path / "a/ds", tmp_path / "b/c/other")
    write_yaml(tmp_path / "b/x.yaml", tmp_path / "b/c/other")
    one, two = (fingerprint(load_index(path, "train")) for path in (tmp_path / "a/data.yaml", tmp_path / "b/x.yaml"))
    assert one == two and one["files"] and (one["images"], one["boxes"]) == (5, 5)
    assert not data_changed({}, {"train": one}, "x", False)  # saved by an earlier version


def test_other_classes_are_refused(place):
    write_yaml(place / "data.yaml", place / "ds", ["a", "b", "c"])
    with user_error("class-mismatch", "['a', 'b', 'c']"):
        resume(place)


def test_a_fingerprint_of_many_images_costs_little():
    import time
    from types import SimpleNamespace

    n, m = 118_287, 860_001
    path = b"/data/coco/images/train2017/000000000000.jpg"
    ends = np.linspace(m / n, m, n).astype(np.int64)
    table = RecordTable(np.frombuffer(path * n, np.uint8), np.arange(1, n + 1) * len(path), np.arange(n),
                        np.full((n, 2), 480, np.int32), ends, np.ones((m, 4), np.float32), np.zeros(m, np.int64),
                        np.zeros(m, bool), np.ones(m, np.float32), np.arange(m))
    index = SimpleNamespace(records=table, key=SimpleNamespace(base="/data/coco/", images="x"))
    began = time.process_time()
    assert fingerprint(index)["images"] == n
    assert time.process_time() - began < 0.3
