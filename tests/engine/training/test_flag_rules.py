"""No flag passes without effect, no value without meaning, no name out of its project: told all at once."""

from types import SimpleNamespace

import pytest

import train
from engine.training.config import HEAD_RULES, RULES, TrainConfig
from engine.training.inputs import open_train
from tests.refusals import user_error
from tests.tiny import picture
from utils.cli import check_flags
from utils.errors import UserError


def check(*words, processes=1, head=None):
    config = TrainConfig.from_args(train.build_parser().parse_args(list(words))).check(processes)
    check_flags(config, HEAD_RULES, head)


IDLE = {
    "--tile-overlap: windows overlap": ["--tile-overlap", "0.2"],
    "--val-interval: with --noval": ["--val-interval", "1", "--noval"],
    "--patience: with --noval": ["--patience", "100", "--noval"],
    "--save-best-by: with": ["--noval", "--save-best-by", "fitness"],
    "--image-weights: with --noval": ["--noval", "--image-weights"],
    "--save-period: with --nosave": ["--nosave", "--save-period", "3"],
    "--save-every-minutes: with --nosave": ["--nosave", "--save-every", "3"],
    "--linear-lr: --cos-lr": ["--linear-lr", "--cos-lr"], "--study: these belong": ["--study", "x"],
    "--allow-data-change: a new run": ["--allow-data-change"],
    "--rect: windows of --tile": ["--rect", "--tile", "64"],
    "reads no other flag; drop --imgsz --epochs": ["--replay", "x.pt", "--epochs", "100", "--img", "640"],
    "--resume: its value is empty": ["--resume", ""], "--replay: its value is empty": ["--replay", ""],
    "--audit-assignment: it looks at a training": ["--audit-assignment", "--resume"],
    "--data: its value is empty": ["--data", " "], "--project: its value is empty": ["--project", ""],
    "--name: its value is empty": ["--name", ""], "--hyp: its value is empty": ["--hyp", ""],
}


@pytest.mark.parametrize("told", IDLE)
def test_flags_without_effect_are_refused(told):
    with user_error("flag-without-effect", told):
        check(*IDLE[told])


@pytest.mark.parametrize("words", [
    ["--tile-overlap", "0.3", "--tile", "64"], ["--noval"], ["--val-interval", "2"], ["--noval", "--patience", "0"],
    ["--resume"], ["--resume", "x", "--allow-data-change"], ["--evolve", "3", "--study", "x"],
    ["--cfg", "", "--weights", ""], ["--device", ""], ["--nosave", "--save-period", "-1"], [],
    ["--replay", "x", "--plugin", "y.py", "--plugin", "z.py"]])
def test_flags_with_effect_are_taken(words, capsys):
    check(*words)
    assert capsys.readouterr().out == ""


def test_all_are_told_at_once_and_harmless_ones_are_only_told(capsys):
    with pytest.raises(UserError, match="--tile-overlap: .*; --val-interval: "):
        check("--tile-overlap", "0.1", "--noval", "--val-interval", "3", "--sync-bn")
    check("--noauto")
    told = capsys.readouterr().out
    assert told.count("--sync-bn has no effect: one process sees the whole batch") == 1
    assert "--noautoanchor has no effect: this model's head has no anchors" in told
    check("--sync-bn", "--noautoanchor", processes=2, head=SimpleNamespace(anchors=[]))
    assert capsys.readouterr().out == ""


def test_rules_are_about_flags_that_exist():
    known = vars(train.build_parser().parse_args([]))
    assert {rule.flag for rule in RULES + HEAD_RULES} <= set(known)


BIG = "12345678901234567890"


@pytest.mark.parametrize("words", [
    ["--epochs", BIG], ["--imgsz", "100000"], ["--batch", BIG], ["--batch-size", "100000"], ["--workers", BIG],
    ["--seed", BIG], ["--patience", BIG], ["--freeze", BIG], ["--close-mosaic", BIG], ["--tile", "100000"],
    ["--clip-grad", "inf"], ["--save-every-minutes", "inf"], ["--oversample-small", "1e12"], ["--evolve", BIG],
    ["--val-interval", BIG], ["--save-period", BIG], ["--skip-bad-batches", BIG], ["--epochs", "9" * 5000]])
def test_huge_numbers_are_refused_with_the_range(words, capsys):
    with pytest.raises(SystemExit):
        train.build_parser().parse_args(words)
    told = capsys.readouterr().err.splitlines()[-1]
    assert words[0] in told and (" at most " in told or " between " in told) and len(told) < 300


@pytest.mark.parametrize("kind, told", [
    ("crowd", ["3 images without a box", "3 ignore regions"]), ("class", ["labels of an unknown class"]),
    ("empty", ["3 images without a box"])])
def test_a_training_that_would_see_no_object_is_refused(tmp_path, kind, told):
    import json

    images, annotations = [], []
    for number in range(1, 4):
        picture(tmp_path / f"images/{number}.png", number, (48, 64))
        images.append({"id": number, "file_name": f"{number}.png", "width": 64, "height": 48})
        row = "9 0.5 0.5 0.2 0.2\n" if kind == "class" else ""
        (tmp_path / "labels").mkdir(exist_ok=True)
        (tmp_path / f"labels/{number}.txt").write_text(row)
        annotations.append({"id": number, "image_id": number, "category_id": 1, "bbox": [1, 1, 9, 9], "area": 81,
                            "iscrowd": 1})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "weld"}]}
    (tmp_path / "a.json").write_text(json.dumps(content))
    split = "{images: images, annotations: a.json}" if kind == "crowd" else "images"
    (tmp_path / "d.yaml").write_text(f"path: {tmp_path}\ntrain: {split}\nval: {split}\nnames: [weld]\n")
    with user_error("no-objects", "d.yaml", *told):
        open_train(TrainConfig(data=str(tmp_path / "d.yaml"), max_pixels=10**6))
