"""Ensembles: models may order classes in their own way, have frames of their own, and look in slices."""

import numpy as np
import pytest

from engine.inference.look import Ensemble, Look
from engine.inference.slicing import Slicing
from tests.engine.inference.blobs import THRESHOLDS, BlobRuntime, draw
from tests.engine.inference.test_slicing import boxes
from utils.errors import UserError
from utils.select import SelectConfig

OBJECTS = [(10, 10, 30, 30, 0), (60, 20, 90, 50, 1), (20, 60, 50, 90, 2)]


class Turned(BlobRuntime):
    """The same detector, whose classes are called blue, red, green."""

    def __init__(self):
        super().__init__(names=("blue", "red", "green"))

    def _predict(self, images, content=None):
        found, scores = super()._predict(images, content)
        return found, scores[..., [2, 0, 1]]


def looks(*runtimes, config: SelectConfig = THRESHOLDS, size=(128, 128), **words) -> list[Look]:
    return [Look(runtime, size, config, **words) for runtime in runtimes]


@pytest.mark.parametrize("method", ["nms", "wbf"])
def test_classes_are_matched_by_name(method, capsys):
    image = draw((100, 100), OBJECTS)
    alone = Ensemble(looks(BlobRuntime()), method)(image)
    both = Ensemble(looks(BlobRuntime(), Turned()), method)
    found = both(image)
    assert "matched by name" in capsys.readouterr().out
    assert boxes(found) == boxes(alone) == sorted(OBJECTS)
    np.testing.assert_allclose(found.scores, alone.scores, atol=1e-6)
    assert both.seconds.keys() == {"pre-process", "inference", "NMS", "ensemble"} and both.seen == "128x128"


def test_wanted_classes_are_those_of_the_first():
    config = SelectConfig(0.001, 0.65, 300, classes=(1,))
    found = Ensemble(looks(BlobRuntime(), Turned(), config=config), "nms")(draw((100, 100), OBJECTS))
    assert boxes(found) == [OBJECTS[1]]
    sliced = Ensemble(looks(BlobRuntime(), Turned(), config=config, size=(64, 64), slicing=Slicing(64)), "nms")
    assert boxes(sliced(draw((100, 100), OBJECTS))) == [OBJECTS[1]]


def test_what_one_model_alone_finds_counts_less_in_fusion():
    class Blind(BlobRuntime):
        def _predict(self, images, content=None):
            found, scores = super()._predict(images, content)
            return found, scores * 0

    image = draw((100, 100), OBJECTS)
    alone = Ensemble(looks(BlobRuntime()), "wbf")(image)
    half = Ensemble(looks(BlobRuntime(), Blind()), "wbf")(image)
    np.testing.assert_allclose(half.scores, alone.scores / 2, atol=1e-6)
    assert len(Ensemble(looks(BlobRuntime(), Blind(), config=SelectConfig(0.001, 0.65, 2)), "nms")(image)) == 2


def test_other_classes_are_refused():
    with pytest.raises(UserError, match="has other classes than"):
        Ensemble(looks(BlobRuntime(), BlobRuntime(names=("cat", "dog", "cow"))), "nms")
