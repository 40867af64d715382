"""What pictures of an evaluation show is what its matching says, and they are made of any images."""

from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from data.index import Index, load_index
from engine.evaluation import pictures
from engine.evaluation.collector import Collector
from engine.evaluation.metrics.matching import match_at
from tests.data import makers
from utils.reporting import palette
from utils.structures import Batch, Detections, Letterbox, Targets, pack_targets

pytestmark = pytest.mark.filterwarnings("error")
# image, box, category: a found dog, a missed small one, a crowd of cats, and a missed cat in the other image.
OBJECTS = [(7, [10, 10, 30, 30], 3, 0), (7, [70, 40, 5, 4], 3, 0), (7, [50, 5, 45, 25], 1, 1),
           (5, [5, 5, 20, 20], 1, 0)]
# image, box (xywh), score, label: a hit, the same again, one within the crowd, one on nothing, one below the threshold.
FOUND = [(7, [11, 10, 30, 30], 0.9, "dog"), (7, [9, 10, 30, 30], 0.8, "dog"), (7, [55, 8, 10, 10], 0.7, "cat"),
         (5, [60, 20, 30, 30], 0.6, "dog"), (5, [5, 5, 20, 20], 0.2, "cat")]


@pytest.fixture
def index(tmp_path) -> Index:
    rows = [{"id": k, "image_id": image, "category_id": category, "bbox": box, "area": box[2] * box[3],
             "iscrowd": crowd} for k, (image, box, category, crowd) in enumerate(OBJECTS, 1)]
    return load_index(makers.coco(tmp_path, rows), "train")


def evaluated(index: Index, rows=FOUND) -> SimpleNamespace:
    """As `evaluate` answers, with one batch of both images at 1.2 times their size, padded to 128 x 128."""
    collector, batches = Collector(index.truth, index.names), []
    for image in (7, 5):
        own = [row for row in rows if row[0] == image]
        boxes = torch.tensor([[x, y, x + w, y + h] for _, (x, y, w, h), _, _ in own]).float().reshape(-1, 4)
        labels = torch.tensor([index.names.index(name) for *_, name in own], dtype=torch.int64)
        collector.update([image], [Detections(boxes, torch.tensor([row[2] for row in own]), labels)])
    letterbox = Letterbox((60, 100), (128, 128), (1.2, 1.2), (4, 28))
    targets = [Targets(letterbox.forward(torch.from_numpy(r.boxes)), torch.from_numpy(r.labels),
                       torch.from_numpy(r.ignore)) for r in index.of_ids([7, 5])]
    images = torch.full((2, 3, 128, 128), 50, dtype=torch.uint8)
    batches.append((Batch(images, pack_targets(targets), [7, 5], [letterbox] * 2), []))
    return SimpleNamespace(truth=index.truth, found=collector.found(), plot_batches=batches)


def place_of(index: Index, image: int) -> int:
    return index.truth.record_ids.index(image)


def test_outcomes_are_those_of_the_evaluation(index):
    result = evaluated(index)
    outcomes = pictures.Outcomes.of(result.truth, result.found)
    matches = match_at(result.truth, result.found, [0.5])[0]
    sure = result.found.scores > pictures.CONF
    for kind, state in ((pictures.HIT, 1), (pictures.ALARM, 0), (pictures.UNJUDGED, -1)):
        assert (outcomes.kind == kind).sum() == (matches.state[sure] == state).sum() > 0
    assert outcomes.missed.sum() == 2  # the small dog; the cat, whose detection is below the threshold
    kinds = outcomes.marks(place_of(index, 7), index.names).kinds
    assert kinds == sorted(kinds)  # misses are drawn last, on top
    assert {kind: kinds.count(kind) for kind in kinds} == {
        pictures.MISSED: 1, pictures.HIT: 1, pictures.ALARM: 1, pictures.UNJUDGED: 2}
    other = outcomes.marks(place_of(index, 5), index.names)
    assert [pictures.MEANING[kind][0] for kind in other.kinds] == [palette.MISSED, palette.ALARM]
    assert other.forms == [["cat", "dog 0.60"]]


def colours(picture: np.ndarray) -> set[tuple[int, ...]]:
    return {tuple(pixel) for pixel in picture.reshape(-1, 3).tolist()}


def test_a_batch_is_shown_without_padding_beside_its_truth(index, tmp_path):
    result = evaluated(index)
    outcomes = pictures.Outcomes.of(result.truth, result.found)
    places = [place_of(index, image) for image in (7, 5)]
    pictures.draw_batch(outcomes, result.plot_batches[0][0], places, index, tmp_path / "batch.png")
    picture = cv2.imread(str(tmp_path / "batch.png"))
    assert picture.shape[1] == 2 * 120 + 2  # 100 px at 1.2: rectangular, as the image is
    strip = next(k for k, row in enumerate(picture) if (row[:60] == 50).any())
    cells = [picture[strip:strip + 72, :120], picture[strip:strip + 72, 122:]]
    assert not colours(cells[0]) & {palette.HIT, palette.MISSED, palette.ALARM}
    assert {palette.HIT, palette.MISSED, palette.ALARM, palette.CROWD} <= colours(cells[1])
    x, y = 10 * 1.2, 12 * 1.2  # the left edge of the first dog is drawn there in the truth
    assert (cells[0][round(y) + 6, round(x) - 1] != 50).any()
    assert (picture[strip + 72:] != 50).any()  # the second image, and the legend


def test_small_objects_are_enlarged(index, tmp_path):
    result = evaluated(index)
    pictures.draw_batches(result, index, tmp_path)
    assert (tmp_path / "val_batch0.jpg").is_file()
    picture = cv2.imread(str(tmp_path / "val_small_objects.jpg"))
    assert picture.shape[1] == pictures.ACROSS * (pictures.CROP + 2) - 2
    outcomes = pictures.Outcomes.of(result.truth, result.found)
    rows = pictures.smallest(result.truth, outcomes.missed)
    assert result.truth.boxes[rows][:, 2].tolist() == [5, 20, 30]  # missed ones by size, then what was found
    crop = picture[picture.shape[0] - 150:, :pictures.CROP]
    assert crop.std() > 1
    for record in index.records:
        Path(record.path).unlink()
    (tmp_path / "val_small_objects.jpg").unlink()
    pictures.draw_batches(result, index, tmp_path)  # images that are gone
    assert not (tmp_path / "val_small_objects.jpg").is_file()


def test_one_object_of_each_image_comes_first():
    truth = SimpleNamespace(boxes=np.array([[0, 0, s, s] for s in range(1, 41)], float), image=np.repeat([0, 1], 20),
                            crowd=np.zeros(40, bool))
    missed = np.zeros(40, bool)
    missed[[*range(0, 5), *range(20, 25)]] = True
    rows = pictures.smallest(truth, missed)
    assert rows[:3] == [0, 20, 1] and len(rows) == pictures.CROPS and rows[10:12] == [5, 25]


def test_a_split_without_labels_shows_what_was_found(tmp_path):
    index = load_index(makers.coco(tmp_path, []), "train")
    pictures.draw_batches(evaluated(index), index, tmp_path)
    picture = cv2.imread(str(tmp_path / "val_batch0.jpg"))
    assert picture.shape[0] < 160 and not (tmp_path / "val_small_objects.jpg").is_file()
