"""`val.py --task speed`: every image is timed once, in stages, with the thresholds of YOLOv5's own."""

import pytest

import val
from engine.evaluation import speed
from engine.evaluation.speed import Speed
from tests.refusals import refused
from tests.tiny import FITS, tiny_checkpoint, tiny_data
from utils.select import SelectConfig


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tiny_data(tmp_path_factory.mktemp("speed"), train=1, val=5, size=[40, 64])


@pytest.fixture(scope="module")
def weights(place):
    return tiny_checkpoint(place / "tiny.pt")


def measured(place, weights, *flags):
    words = ["--weights", weights, "--data", place / "tiny.yaml", "--task", "speed", "--device", "cpu", *flags]
    return val.main(val.build_parser().parse_args([str(word) for word in words]))


def test_stages_of_one_image_and_of_a_batch(place, weights, capsys, monkeypatch):
    shapes, chosen = [], []
    predict, select = speed.Runtime.predict, speed.Runtime.select
    monkeypatch.setattr(speed.Runtime, "predict",
                        lambda self, images, *more: shapes.append(tuple(images.shape)) or predict(self, images, *more))
    monkeypatch.setattr(speed.Runtime, "select", lambda self, boxes, scores, config: chosen.append(config) or select(
        self, boxes, scores, config))
    rows = measured(place, weights, "--imgsz", 64, "--batch-size", 4)
    assert [(row.batch, row.images) for row in rows] == [(1, 5), (4, 5)]
    warm = speed.WARM_UP
    assert shapes == [(1, 3, 64, 64)] * (warm + 5) + [(4, 3, 64, 64)] * (warm + 1) + [(1, 3, 64, 64)]
    assert {(config.conf, config.iou) for config in chosen} == {(0.25, 0.45)}
    assert all(value > 0 for row in rows for value in row.stages.values())
    out = capsys.readouterr().out.splitlines()
    assert "64 x 64 px" in out[-4] and "conf 0.25, IoU 0.45" in out[-4] and "5 images after 3" in out[-4]
    assert out[-1].split()[0] == "4" and "without reading" in out[-3]
    shapes.clear(), chosen.clear()
    measured(place, weights, "--imgsz", 64, "--batch-size", 1, "--rect", "--conf-thres", 0.1, "--iou-thres", 0.6)
    assert set(shapes) == {(1, 3, 64, 96)} and {(c.conf, c.iou) for c in chosen} == {(0.1, 0.6)}


def test_rates_follow_from_the_stages():
    row = Speed(2, 10, {"pre-process": 6.0, "inference": 3.0, "nms": 1.0})
    assert row.per_second == pytest.approx(100) and row.per_second_computed == pytest.approx(250)


def test_models_of_one_size_and_at_most_so_many_images(place, monkeypatch):
    monkeypatch.setattr(speed, "LIMIT", 2)
    weights = tiny_checkpoint(place / "stretch.pt", {**FITS["stretch"], "source": "stretch"})
    assert [row.images for row in measured(place, weights, "--batch-size", 2)] == [2, 2]


def test_sets_keep_their_iou(place, weights, monkeypatch):
    runtime = val.load_runtime(weights, "cpu")
    runtime.finds_sets, runtime.thresholds = True, SelectConfig(0.0, 1.0)
    own = speed.speed_thresholds(val.ValConfig(), runtime)
    assert (own.conf, own.iou) == (0.25, 1.0)


@pytest.mark.parametrize("flags", [["--save-json"], ["--workers", 2], ["--single-cls"], ["--name", "x"], ["--noplots"]])
def test_flags_that_measure_nothing_are_refused(place, weights, flags):
    with refused("flag-without-effect", flags[0], "--task speed"):
        measured(place, weights, *flags)


def test_study_is_told_how(capsys):
    with pytest.raises(SystemExit):
        val.build_parser().parse_args(["--weights", "x.pt", "--task", "study"])
    assert "--task speed at each --imgsz" in capsys.readouterr().err
