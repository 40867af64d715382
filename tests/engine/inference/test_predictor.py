"""Several images at a time give what one after the other gives; streams and single images are waited for."""

import threading

import numpy as np
import pytest

from engine.inference.look import Ensemble, Look
from engine.inference.predictor import Predictor
from engine.inference.slicing import Slicing
from engine.inference.sources import Frame
from tests.engine.inference.blobs import THRESHOLDS, BlobRuntime, draw
from utils.errors import UserError


class Watched(BlobRuntime):
    """Notes which threads have looked."""

    workers = 3

    def __init__(self):
        super().__init__()
        self.threads = []

    def _predict(self, images, content=None):
        self.threads.append(threading.current_thread())
        return super()._predict(images, content)


def frames(count: int, kind: str = "image") -> list[Frame]:
    return [Frame(f"{k}.png", 0, draw((120, 160), [(10 + k, 10, 40 + k, 40, k % 3)]), kind) for k in range(count)]


def predictor(slicing: Slicing | None = None) -> Predictor:
    return Predictor(Ensemble([Look(Watched(), (128, 128), THRESHOLDS, slicing)], "wbf"))


@pytest.mark.parametrize("slicing", [None, Slicing(64, 0.2, True, "nmm")])
def test_order_and_boxes_are_those_of_one_after_the_other(slicing):
    given, several = frames(12), predictor(slicing)
    alone = predictor(slicing)
    for frame, result in zip(given, several.stream(iter(given)), strict=True):
        expected, = alone.stream([frame])
        assert result.frame is frame and result.labels.tolist() == expected.labels.tolist() and len(result) == 1
        np.testing.assert_array_equal(result.boxes, expected.boxes)
    assert several.images == alone.images == 12 and several.at_a_time == 3 and alone.at_a_time == 1
    assert len(set(several.looks.looks[0].runtime.threads)) > 1
    assert ", 3 at a time: " in several.speed() and "at a time" not in alone.speed()
    assert several.speed().count(" ms ") == alone.speed().count(" ms ")


@pytest.mark.parametrize(("kind", "count", "ahead"), [("stream", 3, True), ("image", 1, True), ("image", 3, False)])
def test_what_is_waited_for_is_looked_at_by_this_thread(kind, count, ahead):
    taken, one = [], predictor()
    for number, _ in enumerate(one.stream((taken.append(frame) or frame for frame in frames(count, kind)), ahead)):
        assert len(taken) == number + 1  # the newest frame, not one that was read ahead
    assert set(one.looks.looks[0].runtime.threads) == {threading.current_thread()} and one.images == count


def test_an_error_names_its_file_and_comes_after_the_results_before_it():
    broken, several = frames(6), predictor()
    watched = several.looks.looks[0].runtime
    plain = watched._predict

    def predict(images, content=None):
        boxes, scores = plain(images, content)
        return (boxes * np.nan if (images[0, 1] > 100).any() else boxes), scores  # green: the second of three

    watched._predict = predict
    found = []
    with pytest.raises(UserError, match="1.png: .*finite"):
        found.extend(several.stream(broken))
    assert [result.path for result in found] == [] or [result.path for result in found] == ["0.png"]


def test_an_unreadable_second_image_comes_after_the_first():
    def source():
        yield frames(1)[0]
        raise UserError("1.png: broken", "unreadable-source")

    found = []
    with pytest.raises(UserError, match="broken"):
        for result in predictor().stream(source()):
            found.append(result.path)  # noqa: PERF401  as above
    assert found == ["0.png"]
