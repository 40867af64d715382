"""Types refuse what they say they do not hold, and only on the CPU where they must look at values."""

import pytest
import torch

from utils.structures import Batch, Detections, Letterbox, PackedTargets, Targets, pack_targets

BOX, LABEL = torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([0])
SWAPPED = torch.tensor([[3.0, 2.0, 1.0, 4.0]])
FRAME = Letterbox((4, 4), (8, 8), (2.0, 2.0), (0, 0))


@pytest.mark.parametrize(("boxes", "labels", "name"), [
    (BOX[0], LABEL, "boxes"), (BOX.double(), LABEL, "boxes"), (BOX, LABEL.int(), "labels"), (BOX, LABEL - 1, "labels"),
    (SWAPPED, LABEL, "boxes"), (BOX.repeat(2, 1), LABEL, "boxes")])
def test_targets(boxes, labels, name):
    with pytest.raises(ValueError, match=f"Targets.{name}"):
        Targets(boxes, labels)
    if labels.shape == LABEL.shape and boxes.shape == BOX.shape:
        no = torch.zeros(1, 1, dtype=torch.bool)
        with pytest.raises(ValueError, match=f"PackedTargets.{name}"):
            PackedTargets(boxes[None], labels[None], no, ~no)


def test_a_crowd_region_is_no_object_to_learn():
    yes = torch.ones(1, 1, dtype=torch.bool)
    with pytest.raises(ValueError, match="crowd"):
        PackedTargets(BOX[None], LABEL[None], yes, yes)
    with pytest.raises(ValueError, match="valid"):
        PackedTargets(BOX[None], LABEL[None], ~yes, yes[0])


@pytest.mark.parametrize(("boxes", "scores", "labels", "name"), [
    (BOX.repeat(2, 1), [0.5, 0.6], [0, 1], "scores"), (BOX.repeat(2, 1), [[0.6, 0.5]], [0, 1], "boxes|scores"),
    (BOX, [0.5], [-1], "labels"), (BOX, [0.5], [0, 1], "labels"), (BOX[0], [0.5], [0], "boxes")])
def test_detections(boxes, scores, labels, name):
    with pytest.raises(ValueError, match=f"Detections.({name})"):
        Detections(boxes, torch.tensor(scores), torch.tensor(labels))


def test_equal_scores_and_none_are_fine():
    assert len(Detections(BOX.repeat(2, 1), torch.tensor([0.5, 0.5]), torch.tensor([1, 0]))) == 2
    assert len(Detections(BOX[:0], torch.zeros(0), LABEL[:0])) == len(Targets.empty()) == 0


@pytest.mark.parametrize(("images", "ids", "boxes", "said"), [
    (torch.zeros(1, 8, 8, 3, dtype=torch.uint8), [1], [FRAME], "images"),
    (torch.zeros(1, 3, 8, 8, dtype=torch.int32), [1], [FRAME], "images"),
    (torch.zeros(1, 3, 8, 8), [1, 2], [FRAME], "1 images"), (torch.zeros(2, 3, 8, 8), [1, 2], [FRAME] * 2, "2 images"),
    (torch.zeros(1, 3, 8, 8), [1], [], "1 images"), (torch.zeros(1, 3, 8, 16), [1], [FRAME], "letterboxes")])
def test_batches(images, ids, boxes, said):
    with pytest.raises(ValueError, match=f"Batch.*{said}"):
        Batch(images, pack_targets([Targets(BOX, LABEL)]), ids, boxes)


def test_values_on_other_devices_are_not_looked_at():
    """The meta device has none: looking would raise."""
    boxes, labels = SWAPPED.to("meta"), LABEL.to("meta")
    assert len(Targets(boxes, labels)) == 1
    assert len(Detections(boxes, torch.zeros(1, device="meta"), labels)) == 1
