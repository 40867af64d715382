"""Images that the data list and nobody can open stay in the truth: their objects count as missed."""

import numpy as np
import pytest

from data.index import load_index
from engine.evaluation.collector import Collector
from engine.evaluation.metrics.judge import judge
from engine.evaluation.metrics.table import format_table
from tests.data import makers

ROW = "0 .5 .5 .2 .4\n"


def yolo(folder):
    yaml = makers.yolo(folder, dict.fromkeys(("a.jpg", "b.jpg", "c.jpg"), ROW + "1 .2 .2 .1 .1\n"))
    (folder / "list.txt").write_text("".join(f"images/train/{name}.jpg\n" for name in "abc"))
    return makers.config(folder, train="list.txt", names=["cat", "dog"]), folder / "images/train", yaml


def voc(folder):
    xml = makers.xml(makers.xml_object("cat", 41, 19, 60, 42) + makers.xml_object("dog", 16, 10, 25, 15))
    return makers.voc(folder, {"a": xml, "b": xml, "c": xml}), folder / "JPEGImages", None


@pytest.mark.parametrize("make", [yolo, voc])
@pytest.mark.parametrize("spoil", [lambda path: path.unlink(), makers.truncate, lambda path: path.write_bytes(b"")])
def test_objects_of_images_that_cannot_be_opened_count_as_missed(tmp_path, make, spoil):
    yaml, images, _ = make(tmp_path)
    whole = load_index(yaml, "train", cache=False).truth
    spoil(images / "b.jpg")
    index = load_index(yaml, "train", cache=False)
    if len(index) == 3:
        pytest.skip("half of this file is enough for its header; the loader counts it")
    truth = index.truth
    assert sorted(truth.label.tolist()) == sorted(whole.label.tolist()) == [0, 0, 0, 1, 1, 1]
    assert len(truth.image_ids) == len(set(truth.image_ids)) == 3 and truth.image.max() == 2
    gone = truth.image == 2
    np.testing.assert_allclose(truth.boxes[gone], whole.boxes[whole.image == 1], atol=1e-3)
    np.testing.assert_allclose(truth.areas[gone], whole.areas[whole.image == 1], rtol=1e-3)
    told = truth.notes[0]
    assert told.startswith("1 images cannot be opened: their 2 objects count as missed")
    assert ("guessed" in told) == (make is yolo) and not any("skipped" in note for note in truth.notes)
    collector = Collector(truth)
    metrics = judge(truth, collector.found(), index.names)
    assert metrics.n_labels == 6 and "3 of 3 images were not evaluated" in format_table(metrics, index.names)


def test_a_part_and_one_class_of_them(tmp_path):
    yaml, images, _ = yolo(tmp_path)
    (images / "c.jpg").unlink()
    index = load_index(yaml, "train", cache=False, single_cls=True)
    assert index.truth.category_ids == [1] and index.truth.label.tolist() == [0] * 6
    assert len(index.subset(1).truth.image_ids) == 1
    assert load_index(yaml, "train", cache=False).coco()["images"] == index.coco()["images"]
