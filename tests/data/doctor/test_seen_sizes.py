"""Sizes as the loss sees them: those of the plans, counted by what they lose on the way."""

import json

import numpy as np
import pytest

from data.__main__ import build_parser, main
from data.augment.geometry import BoxFilter
from data.augment.policies.from_recipe import read_policy
from data.augment.policies.yolo import YoloPolicy
from data.doctor.seen_sizes import CountingFilter, Seen, augmented, difference, frame_of, labelled
from engine.training.recipe import load_recipe
from tests.data import makers
from tests.data.pictures import Index, make_records
from tests.refusals import refused
from utils.config import CFG_ROOT

STILL = YoloPolicy(mosaic=0, translate=0, scale=0, fliplr=0, min_side=0, min_area=0, max_aspect=1e6)
SIZES = [(40, 60), (60, 40), (64, 64), (100, 30)]


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return Index(make_records(tmp_path_factory.mktemp("images"), SIZES))


@pytest.mark.parametrize("path", sorted((CFG_ROOT / "train").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_policy_is_that_of_the_training(path):
    assert read_policy(path.stem) == read_policy(path) == load_recipe(path).make_policy()


@pytest.mark.parametrize(("text", "code", "told"), [
    ("policy: yola", "unknown-value", "yola"), ("mosaic: many", "bad-value", "mosaic"),
    ("scale: 2", "bad-value", "scale"), ("mosaic: true", "bad-value", "number"), ("fill: a", "bad-value", "fill"),
    ("base: own.yaml", "circular-base", "own base"), ("base: 3", "bad-value", "base")])
def test_a_recipe_that_cannot_be_is_refused(tmp_path, text, code, told):
    (tmp_path / "own.yaml").write_text(text)
    with refused(code, told):
        read_policy(tmp_path / "own.yaml")


def test_without_augmentation_training_sees_the_letterboxed_labels(index):
    seen = augmented(index, STILL, 128, samples=2 * len(SIZES))
    plain = labelled("b", index, frame_of(STILL, 128), 128)
    assert len(seen.sizes) == 2 * len(plain.sizes) == seen.shown and not any(seen.left_out.values())
    np.testing.assert_allclose(np.sort(seen.sizes), np.sort(np.repeat(plain.sizes, 2)), rtol=0.02)


def test_a_smaller_scale_shows_smaller_objects(index):
    half = YoloPolicy(mosaic=0, translate=0, scale=0.5, fliplr=0, min_side=0, min_area=0, max_aspect=1e6)
    seen = augmented(index, half, 128, samples=200)
    plain = labelled("b", index, frame_of(half, 128), 128)
    assert 0.8 < seen.median / plain.median < 1.1 and seen.sizes.min() < plain.sizes.min()


@pytest.mark.parametrize("name", ["yolov7", "ssd", "salience-detr"])
@pytest.mark.parametrize("mosaic", [True, False])
def test_what_is_shown_is_seen_or_left_out(index, name, mosaic):
    policy = read_policy(name)
    if name == "yolov7":
        policy = YoloPolicy(min_side=9, min_area=0.6, mixup=0.3, max_aspect=1.5)
    seen = augmented(index, policy, 96, samples=60, mosaic=mosaic)
    assert seen.shown == len(seen.sizes) + sum(seen.left_out.values()) and len(seen.sizes)
    assert name == "salience-detr" or sum(seen.left_out.values())


def test_each_box_is_left_out_for_the_first_reason():
    after = np.array([[0, 0, 1, 50], [0, 0, 10, 10], [0, 0, 50, 5], [0, 0, 9, 9], [0, 0, 0, 5], [0, 0, 9, 9]], float)
    before = np.array([[0, 0, 1, 50], [0, 0, 40, 40], [0, 0, 50, 5], [0, 0, 9, 9], [0, 0, 9, 9], [0, 0, 9, 9]], float)
    ignore, rule = np.array([0, 0, 0, 0, 0, 1], bool), BoxFilter(2, 0.1, 8)
    counter = CountingFilter(rule)
    assert np.array_equal(counter(before, after, 1.0, ignore), rule(before, after, 1.0, ignore))
    assert counter.left_out == {"side": 1, "area": 1, "aspect": 1, "centre": 0}
    assert (counter.shown, counter.kept) == (4, 1)


def test_shares_by_bin_and_the_sentence():
    small, large = Seen("training", np.array([7.9, 8, 16, 31, 96]), 5), Seen("validation", np.full(5, 40.0), 5)
    np.testing.assert_allclose(small.shares, [0.2, 0.2, 0.4, 0, 0.2])
    assert difference(small, large).startswith("objects are 0.4x as large in training as in validation (medians 16.0 "
                                               "and 40.0 px); objects of 32 to 96 px are 0% in training and 100%")
    assert "about as large" in difference(large, Seen("v", np.full(3, 42.0), 3))
    assert "validation has no object" in difference(small, Seen("validation", np.zeros(0), 0))


def test_whole_images_of_validation_keep_their_sizes(tmp_path):
    rows = {f"{k}.jpg": "0 .5 .5 .2 .3\n1 .3 .3 .1 .1\n" for k in range(3)}
    yaml = makers.yolo(tmp_path, rows, val="images/train")
    run(tmp_path, yaml, "--sizes", "--imgsz", 64, 128, "--samples", 3, "--noplots")
    val = json.loads((tmp_path / "runs/set/sizes.json").read_text())["rows"][-1]
    assert val["what"] == "validation at 128 px" and val["objects"] == 6
    assert val["median"] == pytest.approx((np.sqrt(20 * 18) + np.sqrt(10 * 6)) / 2 * 1.28, rel=1e-3)


def run(tmp_path, yaml, *words):
    words = (yaml, "--project", tmp_path / "runs", "--no-cache", *words)
    main(build_parser().parse_args([str(word) for word in words]))


def test_the_command_writes_table_and_picture(tmp_path, capsys):
    rows = {f"{k}.jpg": "0 .5 .5 .2 .3\n1 .3 .3 .1 .1\n" for k in range(3)}
    yaml = makers.yolo(tmp_path, rows, val="images/train")
    run(tmp_path, yaml, "--sizes", "--imgsz", 64, 128, "--samples", 9, "--tile", 48, "--hyp", "yolov5")
    out = capsys.readouterr().out
    assert "as large in training as in validation" in out and "cfg/train/yolov5.yaml: mosaic 1" in out
    folder = tmp_path / "runs/set"
    report = json.loads((folder / "sizes.json").read_text())
    assert [row["what"] for row in report["rows"]] == [
        "labels of train at 64 px", "its tiles of 48 at 64 px", "seen in training", "seen with mosaic closed",
        "validation in tiles of 48 at 128 px"]  # as train.py --tile and val.py --slice look at it
    tiles, val = report["rows"][1], report["rows"][-1]
    assert val["objects"] == tiles["objects"] and val["median"] == pytest.approx(2 * tiles["median"], rel=1e-3)
    assert (folder / "sizes.png").stat().st_size > 5000 and not (folder / "report.json").exists()


@pytest.mark.parametrize("words", [["--tile", 64], ["--hyp", "ssd"], ["--samples", 5], ["--imgsz", 64, 96],
                                   ["--sizes", "--split", "val"], ["--sizes", "--duplicates", "off"],
                                   ["--sizes", "--tile-overlap", 0.1]])
def test_flags_without_effect_are_refused(tmp_path, words):
    with refused("flag-without-effect", words[-2] if words[0] == "--sizes" else words[0]):
        run(tmp_path, "x.yaml", *words)
