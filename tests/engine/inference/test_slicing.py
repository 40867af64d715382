"""Slices: windows as in training, exact boxes in the image's frame, objects at seams found once."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.tiles import starts
from engine.inference.look import Look
from engine.inference.slicing import SlicedDetector, Slicing, Views, windows
from tests.engine.inference.blobs import THRESHOLDS, BlobRuntime, draw
from utils.errors import UserError
from utils.frame import Frame

# At seams of windows of 64 px that overlap by 13: whole in both, cut in one, cut in both, at a corner of four.
OBJECTS = [(4, 4, 12, 20, 0), (52, 10, 60, 18, 1), (48, 30, 58, 40, 0), (40, 80, 80, 90, 2), (50, 52, 70, 62, 1),
           (110, 100, 120, 120, 0), (90, 2, 99, 6, 1), (139, 40, 150, 55, 2)]


def detector(slicing: Slicing, runtime=None, **views) -> SlicedDetector:
    runtime = runtime or BlobRuntime()
    return SlicedDetector(runtime, (64, 64), THRESHOLDS, slicing, Views(**views))


def boxes(found) -> list[tuple]:
    return sorted((*map(round, box), label) for box, label in zip(found.boxes.tolist(), found.labels.tolist(),
                                                                  strict=True))


@given(st.integers(1, 300), st.integers(1, 300), st.integers(32, 120), st.sampled_from([0.0, 0.2, 0.5]))
def test_windows_cover_the_image(height, width, size, overlap):
    cuts = windows(height, width, Slicing(size, overlap))
    shown = np.zeros((height, width), int)
    for x1, y1, x2, y2 in cuts.tolist():
        assert 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height
        assert (x2 - x1, y2 - y1) == (min(size, width), min(size, height))
        shown[y1:y2, x1:x2] += 1
    assert shown.min() >= 1
    across = starts(width, size, round(size * overlap)).tolist()
    assert cuts[:len(across), 0].tolist() == across and len({tuple(c) for c in cuts.tolist()}) == len(cuts)


@pytest.mark.parametrize("method", ["nms", "nmm", "wbf"])
@pytest.mark.parametrize("batch", [1, 3, 16])
def test_objects_at_seams_are_found_once(method, batch):
    image = draw((128, 150), OBJECTS)
    found, = detector(Slicing(64, 0.2, merge=method), batch=batch).run([image])
    alone, = detector(Slicing(64, 0.2), batch=batch, always_full=True).run([image])
    assert found.count == 9 and len(found.windows) > len(OBJECTS) and found.duplicates[0] > 0
    assert found.full is None and len(alone.full) > 0
    if method == "nmm":  # which puts the one object together that no window shows whole
        assert boxes(found.merged) == sorted(OBJECTS) and found.duplicates[1] == 0
    else:
        assert set(boxes(found.merged)) >= {o for o in OBJECTS if max(o[2] - o[0], o[3] - o[1]) < 13}


def test_images_come_in_order_whatever_their_sizes():
    scenes = [((128, 150), OBJECTS), ((40, 50), [(2, 2, 9, 9, 1)]), ((64, 64), []), ((200, 70), OBJECTS[:1]),
              ((128, 150), OBJECTS[::2]), ((30, 200), [(60, 3, 72, 9, 2)])]
    images = [draw(*scene) for scene in scenes]
    for batch in (1, 4, 100):
        runtime = BlobRuntime()
        found = list(detector(Slicing(64), runtime, batch=batch, always_full=True).run(iter(images)))
        assert [boxes(f.merged) for f in found] == [sorted(objects) for _, objects in scenes]
        assert max(shape[0] for shape in runtime.batches) <= batch
    assert max(shape[0] for shape in runtime.batches) > 9  # windows of several images


def test_small_images_are_looked_at_once():
    runtime = BlobRuntime()
    found, = detector(Slicing(64, with_full=True), runtime, always_full=True).run([draw((50, 60), [(5, 5, 20, 9, 0)])])
    assert [shape[0] for shape in runtime.batches] == [1]
    assert boxes(found.full) == boxes(found.windows) == boxes(found.merged) == [(5, 5, 20, 9, 0)]


def test_the_whole_image_helps_with_large_objects():
    """Of an object larger than windows the whole image shows more, and windows show small ones that vanish in it."""
    objects = [(10, 10, 200, 190, 0), (230, 10, 234, 13, 1)]
    image = draw((256, 256), objects)
    for method in ("nms", "nmm", "wbf"):
        sliced, = detector(Slicing(64, merge=method)).run([image])
        both, = detector(Slicing(64, with_full=True, merge=method)).run([image])
        large = [box for box in boxes(both.merged) if box[4] == 0]
        assert len(large) == 1 and np.abs(np.array(large[0][:4]) - objects[0][:4]).max() <= 4
        assert len([box for box in boxes(sliced.merged) if box[4] == 0]) > 1
        assert objects[1] in boxes(both.merged) and objects[1] not in boxes(both.full)


def test_windows_are_resized_to_the_model():
    """Windows of half the size are enlarged twice, and boxes come back to the image."""
    runtime = BlobRuntime()
    found, = detector(Slicing(32), runtime).run([draw((64, 64), [(10, 12, 18, 20, 1)])])
    assert {shape[2:] for shape in runtime.batches} == {(64, 64)}
    np.testing.assert_allclose(found.merged.boxes.numpy(), [[10, 12, 18, 20]], atol=0.6)


@pytest.mark.parametrize("frame", [Frame(fit="stretch", size=(48, 96), multiple=1),
                                   Frame(fit="shortest", short=64, long=107, pad="corner")])
def test_frames_of_other_kinds(frame):
    runtime = BlobRuntime(frame)
    slicing = SlicedDetector(runtime, frame.resolve(), THRESHOLDS, Slicing(64))
    found, = slicing.run([draw((100, 64), [(20, 20, 40, 40, 0), (30, 70, 50, 90, 2)])])
    assert [label for *_, label in boxes(found.merged)] == [0, 2]
    np.testing.assert_allclose(sorted(found.merged.boxes.tolist()), [[20, 20, 40, 40], [30, 70, 50, 90]], atol=1.5)


def test_limit_and_damage():
    found, = detector(Slicing(64), limit=3).run([draw((128, 150), OBJECTS)])
    assert len(found.merged) == 3 < len(found.windows)

    def broken(images, content):
        return torch.full((len(images), 1, 4), torch.nan), torch.ones(len(images), 1, 3)

    with pytest.raises(UserError, match="not finite"):
        list(detector(Slicing(64), predict=broken).run([draw((70, 70), [])]))


def test_a_look_in_slices_is_the_same():
    image = draw((128, 150), OBJECTS)
    look = Look(BlobRuntime(), (64, 64), THRESHOLDS, Slicing(64))
    expected, = detector(Slicing(64)).run([image])
    assert boxes(look(image)) == boxes(expected.merged) and look.seen == "9 windows of 64 px"


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 17), st.integers(0, 12), st.integers(1, 7), st.integers(1, 7)), max_size=12,
                unique_by=lambda o: o[:2]), st.sampled_from(["nms", "nmm"]))
def test_small_objects_anywhere(places, method):
    """Every object that is smaller than the overlap comes back exactly, and once."""
    objects = [(9 * x, 9 * y, 9 * x + width, 9 * y + height, 0) for x, y, width, height in places]
    found, = detector(Slicing(64, merge=method)).run([draw((120, 170), objects)])
    assert boxes(found.merged) == sorted(objects)
