"""Evaluation of slices: a perfect detector gets perfect numbers after merging, by one process or several."""

import cv2
import numpy as np
import pytest
import yaml

from data import load_index
from engine.evaluation.sliced import LoadedAhead, evaluate_sliced
from engine.inference.slicing import SlicedDetector, Slicing, Views
from tests.engine.inference.blobs import NAMES, THRESHOLDS, BlobRuntime, draw
from tests.engine.inference.test_slicing import OBJECTS
from utils.distributed.group import Group

SCENES = [((128, 150), OBJECTS), ((64, 64), [(5, 5, 20, 20, 0)]), ((100, 180), OBJECTS[:4]), ((128, 150), [])]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A YOLO data set of drawn scenes."""
    folder = tmp_path_factory.mktemp("blobs")
    for name in ("images", "labels"):
        (folder / name / "val").mkdir(parents=True)
    for number, (size, objects) in enumerate(SCENES):
        cv2.imwrite(str(folder / f"images/val/{number}.png"), draw(size, objects))
        rows = [(label, (x1 + x2) / 2 / size[1], (y1 + y2) / 2 / size[0], (x2 - x1) / size[1], (y2 - y1) / size[0])
                for x1, y1, x2, y2, label in objects]
        (folder / f"labels/val/{number}.txt").write_text("".join(f"{' '.join(map(str, row))}\n" for row in rows))
    (folder / "data.yaml").write_text(yaml.safe_dump({"path": str(folder), "train": "images/val", "val": "images/val",
                                                      "names": list(NAMES)}))
    return folder


def detector() -> SlicedDetector:
    return SlicedDetector(BlobRuntime(), (64, 64), THRESHOLDS, Slicing(64), Views(batch=4, always_full=True))


def row(text: str, name: str) -> list[str]:
    return next(line.split() for line in text.splitlines() if line.startswith(name))


def test_a_perfect_detector(folder):
    index = load_index(folder / "data.yaml", "val")
    result = evaluate_sliced(detector(), index)
    assert result.metrics["AP"] == pytest.approx(1) and len(result.found) == sum(len(o) for _, o in SCENES)
    full, sliced, merged = (row(result.comparison, name) for name in ("full", "sliced", "merged"))
    assert float(merged[1]) == 1 > float(sliced[1]) and float(full[1]) < 1
    assert int(sliced[-2]) > 0 == int(merged[-2]) and full[-2] == "-"
    assert int(merged[-3]) == len(result.found) < int(sliced[-3])
    assert result.confusion.matrix.trace() == len(result.found) and result.damaged == []
    assert list(result.speed) == ["load", "full", "windows", "merge"]


class Two(Group):
    """The first of two processes; the second's share was kept before."""

    kept: list = []

    def gather(self, item):
        self.kept.append(item)
        return list(reversed(self.kept)) if self.is_main else None

    def broadcast(self, item):
        return item or (None,) * 5


def test_two_processes_give_the_same(folder):
    index = load_index(folder / "data.yaml", "val")
    alone = evaluate_sliced(detector(), index)
    evaluate_sliced(detector(), index, group=Two(1, 2))
    both = evaluate_sliced(detector(), index, group=Two(0, 2))
    assert both.metrics.values == alone.metrics.values and (both.confusion.matrix == alone.confusion.matrix).all()
    for name in ("images", "labels", "boxes", "scores", "seen"):
        np.testing.assert_array_equal(getattr(both.found, name), getattr(alone.found, name))
    assert [line.split()[:-1] for line in both.comparison.splitlines()[1:4]] == [
        line.split()[:-1] for line in alone.comparison.splitlines()[1:4]]


def test_a_damaged_image_is_named_and_its_objects_are_missed(folder, tmp_path):
    index = load_index(folder / "data.yaml", "val")
    path = folder / "images/val/0.png"
    content = path.read_bytes()
    path.write_bytes(content[:200])
    try:
        with pytest.warns(UserWarning, match="cannot be decoded"):
            result = evaluate_sliced(detector(), index)
    finally:
        path.write_bytes(content)
    assert result.damaged == [str(path)] and result.metrics["AR100"] < 1 and result.found.seen.all()


@pytest.mark.parametrize("threads", [1, 3, 9])
def test_images_are_loaded_in_order(threads):
    class Store:
        sizes = np.array([(k + 1, 2) for k in range(6)])

        def load_whole(self, number):
            return None if number == 2 else np.full((number + 1, 2, 3), number, np.uint8)

    images = list(LoadedAhead(Store(), range(6), threads, (1, 2, 3)))
    assert [image.shape[0] for image in images] == [1, 2, 3, 4, 5, 6]
    assert images[2][0, 0].tolist() == [3, 2, 1] and images[5].max() == 5
