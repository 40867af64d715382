"""Test-time augmentation: every pass finds the same object at the same place of the given frame."""

import numpy as np
import pytest
import torch

from engine.inference.augment import PASSES, augmented
from engine.inference.look import Look
from tests.engine.inference.blobs import THRESHOLDS, BlobRuntime, draw
from utils.errors import UserError
from utils.frame import Frame

OBJECT = (20, 30, 50, 70, 1)


def batch(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1)[None]


@pytest.mark.parametrize("as_bytes", [True, False])
def test_boxes_of_all_passes_come_back(as_bytes):
    runtime = BlobRuntime()
    images = batch(draw((96, 160), [OBJECT]))
    if not as_bytes:
        runtime._blobs = lambda image: BlobRuntime._blobs(image * 255)
        images = images / 255
    boxes, scores = augmented(runtime)(images)
    assert [shape[2:] for shape in runtime.batches] == [(96, 160), (96, 160), (64, 128)]  # up to multiples of 32
    assert boxes.shape == (1, 3, 4) and scores.shape == (1, 3, 3) and (scores[0].argmax(1) == 1).all()
    np.testing.assert_allclose(boxes[0], [OBJECT[:4]] * len(PASSES), atol=1.6)
    assert boxes[0, 0].tolist() == list(OBJECT[:4])


def test_padding_has_the_colour_of_the_frame():
    runtime, seen = BlobRuntime(), []
    predict = runtime._predict
    runtime._predict = lambda images, content=None: (seen.append(images.clone()), predict(images, content))[1]
    augmented(runtime)(batch(draw((64, 64), [])))
    below, right, image = seen[2][..., 43:, :], seen[2][..., 43:], seen[2][..., :43, :43]
    assert (below == 114).all() and (right == 114).all() and (image == 0).all()


def test_images_in_a_corner_of_their_frames_are_mirrored_there():
    runtime = BlobRuntime(Frame(fit="shortest", short=64, long=200, pad="corner", fill=(0, 0, 0)))
    images = torch.cat((batch(draw((96, 160), [OBJECT])), batch(draw((96, 160), [OBJECT]))))
    content = torch.tensor([(96, 160), (80, 60)])
    boxes, scores = augmented(runtime)(images, content)
    for found, score in zip(boxes, scores, strict=True):
        np.testing.assert_allclose(found[score.amax(1) > 0], [OBJECT[:4]] * 3, atol=1.6)


def test_what_cannot_be_augmented_says_so():
    with pytest.raises(UserError, match="48 x 96 pixels alone"):
        augmented(BlobRuntime(Frame(fit="stretch", size=(48, 96), multiple=1)))
    with pytest.raises(UserError, match="three times"):
        augmented(BlobRuntime(select="topk"))


def test_a_look_selects_among_all_passes():
    image = draw((96, 160), [OBJECT])
    found = Look(BlobRuntime(), (160, 160), THRESHOLDS, augment=True)(image)
    assert len(found) == 1  # what passes find of one object suppresses each other
    np.testing.assert_allclose(found.boxes, [OBJECT[:4]], atol=1.6)
