"""What a user does with the detections of an image: choose, convert, draw, save."""

import copy
import pickle

import cv2
import numpy as np
import pytest
import torch

from engine.inference.detections import Detection, ImageDetections
from engine.inference.sources import Frame
from tests.refusals import user_error

NAMES = ["car", "bus", "person"]
BOXES = torch.tensor([[1.5, 2.0, 9.0, 8.5], [20.0, 10.0, 30.0, 19.9], [0.0, 0.0, 40.0, 30.0], [5.2, 5.2, 5.3, 5.3]])


def found(count: int = 4, path: str = "a/000012.png", ids: bool = False) -> ImageDetections:
    image = np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8)
    return ImageDetections(BOXES[:count], torch.tensor([0.875, 0.75, 0.5, 0.25])[:count],
                           torch.tensor([2, 0, 2, 1])[:count], Frame(path, 0, image, "image"), NAMES,
                           torch.arange(count) + 7 if ids else None)


def scores(part: ImageDetections) -> list[float]:
    return part.scores.tolist()


def test_one_by_one():
    first = Detection("person", pytest.approx(0.875), (1.5, 2.0, 9.0, 8.5), 2)
    every = list(found())
    assert len(every) == len(found()) == 4 and every[0] == found()[0] == first
    assert [d.name for d in every] == ["person", "car", "person", "bus"] and found()[-1] == every[3]
    assert [d.id for d in found(ids=True)] == [7, 8, 9, 10] and found(ids=True)[1].id == 8
    with pytest.raises(IndexError):
        found()[4]
    assert list(found(0)) == []


@pytest.mark.parametrize(("key", "expected"), [
    (slice(1, 3), [0.75, 0.5]), (slice(None), [0.875, 0.75, 0.5, 0.25]), (slice(9, 12), []),
    (slice(None, None, 2), [0.875, 0.5]), ("person", [0.875, 0.5]), ([0, 3], [0.875, 0.25]), ([], []),
    (np.array([1]), [0.75]), (np.array([], int), []), ([True, False, False, True], [0.875, 0.25]),
    (torch.tensor([False] * 4), []), (np.array([0, 1, 1, 0], bool), [0.75, 0.5])])
def test_parts(key, expected):
    part = found(ids=True)[key]
    assert isinstance(part, ImageDetections) and scores(part) == expected
    assert part.ids.tolist() == [7 + [0.875, 0.75, 0.5, 0.25].index(score) for score in expected]
    assert part.names == NAMES and part.path == "a/000012.png"


def test_parts_by_score():
    result = found()
    assert scores(result[result.scores > 0.6]) == [0.875, 0.75]


@pytest.mark.parametrize("key", [[1, 0], [0, 0], [True], slice(None, None, -1), [0.5], 1.5, None, [4], [-1], (0, 1),
                                 True, torch.zeros(2, 2, dtype=torch.long)])
def test_what_chooses_nothing_is_an_error(key):
    with user_error("bad-index", "4 detections"):
        found()[key]


def test_an_unknown_class_is_told_with_the_nearest():
    with user_error("unknown-class", "did you mean 'person'?"):
        found()["persons"]


def test_coco_rows():
    rows = found(2).to_coco()
    assert rows[0] == {"image_id": 12, "category_id": 2, "bbox": [1.5, 2.0, 7.5, 6.5], "score": 0.875}
    assert found(1, "bus.jpg").to_coco()[0]["image_id"] == "bus" and found(1).to_coco(5)[0]["image_id"] == 5
    assert found(0).to_coco() == []


@pytest.mark.parametrize("count", [4, 0])
@pytest.mark.parametrize("ids", [False, True])
def test_supervision(count, ids):
    pytest.importorskip("supervision")
    there = found(count, ids=ids).to_supervision()
    assert len(there) == count and there.xyxy.shape == (count, 4)
    assert there.class_id.tolist() == found(count).labels.tolist()
    assert there.data["class_name"].tolist() == [d.name for d in found(count)]
    assert (there.tracker_id is None) != ids
    assert len(there[there.confidence > 0.6]) == min(count, 2)


@pytest.mark.parametrize("count", [4, 0])
def test_pandas(count):
    pytest.importorskip("pandas")
    table = found(count).to_pandas()
    assert list(table.columns) == ["xmin", "ymin", "xmax", "ymax", "confidence", "class", "name"]
    assert table["name"].tolist() == [d.name for d in found(count)] and len(table) == count
    assert "id" in found(count, ids=True).to_pandas().columns


@pytest.mark.parametrize(("package", "method"), [("pandas", "to_pandas"), ("supervision", "to_supervision")])
def test_a_package_that_is_missing_is_named(monkeypatch, package, method):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with user_error("missing-package", package, 'pip install "assn[results]"'):
        getattr(found(), method)()


def test_plots_and_files(tmp_path):
    result = found()
    before = result.image.copy()
    drawn = result.plot()
    assert drawn.shape == before.shape and (drawn != before).any() and (result.image == before).all()
    assert result.save(tmp_path) == tmp_path / "000012.png"
    assert (cv2.imread(str(tmp_path / "000012.png")) == drawn).all()
    assert result.save(tmp_path / "new" / "x.jpg").is_file()
    assert result.save(tmp_path / "other").parent == tmp_path / "other"
    with user_error("unknown-format", ".txt", ".png"):
        result.save(tmp_path / "x.txt")


def test_frames_of_a_video_have_files_of_their_own(tmp_path):
    frames = [Frame("v.mp4", k, np.zeros((9, 9, 3), np.uint8), "video", 25.0, 2) for k in range(2)]
    nothing = torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64)
    paths = [ImageDetections(*nothing, frame, NAMES).save(tmp_path) for frame in frames]
    assert [path.name for path in paths] == ["v_0.jpg", "v_1.jpg"]


def test_crops_hold_at_least_a_pixel():
    crops = found().crops()
    assert [crop.shape[:2] for crop in crops] == [(7, 8), (10, 10), (30, 40), (1, 1)]
    assert (crops[2] == found().image).all() and found(0).crops() == []


def test_what_is_printed():
    assert repr(found()) == "<4 detections in image a/000012.png, 40x30: 1 car, 1 bus, 2 persons>"
    assert repr(found(0)) == "<0 detections in image a/000012.png, 40x30: nothing>"


def test_copies_and_pickles():
    for other in (copy.deepcopy(found()), pickle.loads(pickle.dumps(found()))):
        assert torch.equal(other.boxes, found().boxes) and other.to_coco() == found().to_coco()
