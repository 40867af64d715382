"""Each cause, made by hand, is found; all causes together are all that is missed."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from engine.evaluation.diagnosis.causes import BINS, CAUSES, FLOOR, KINDS, bins_of
from engine.evaluation.diagnosis.diagnose import Diagnosis
from engine.evaluation.diagnosis.files import format_summary, summary
from tests.engine.evaluation.diagnosis.cases import CONFIG, SIZE, causes, diagnosed, truth_of

A = (40, 40, 60, 60)
EXACT, SHIFTED, NEAR = A, (44, 40, 64, 60), (50, 40, 70, 60)  # IoU with A: 1, 2/3, 1/3
WORSE = (47, 40, 67, 60)  # IoU 13/27 with A and 17/23 with SHIFTED
B = SHIFTED
FAR = (100, 100, 120, 120)
FULL = [((x * 1.5, 100, x * 1.5 + 1, 101), 0.9) for x in range(100)]  # a hundred better ones of class 0


def one(*candidates, objects=(A,), labels=None, **options) -> Diagnosis:
    """One image; a candidate: box, score of class 0 [, score of class 1]."""
    boxes = [candidate[0] for candidate in candidates]
    scores = [(*candidate[1:], 0.0)[:2] for candidate in candidates]
    return diagnosed(truth_of(objects, labels or [0] * len(objects)), [boxes], [scores], **options)


@pytest.mark.parametrize(("candidates", "options", "at_best_f1", "of_all"), [
    ([], {}, "none", "none"),
    ([(FAR, 0.9)], {}, "none", "none"),
    ([(EXACT, FLOOR / 2)], {}, "none", "none"),
    ([(EXACT, 0.9)], {}, "", ""),
    ([(NEAR, 0.9)], {}, "localisation", "localisation"),
    ([(NEAR, 0.0005)], {}, "localisation", "localisation"),
    ([(NEAR, 0.9), (EXACT, 0.1)], {}, "localisation", ""),
    ([(NEAR, 0.1), (EXACT, 0.0005)], {}, "score", "localisation"),  # at the best F1 neither box is seen
    ([(EXACT, 0.0, 0.9)], {}, "class", "class"),
    ([(EXACT, 0.1, 0.9)], {}, "class", ""),
    ([(EXACT, 0.0, 0.0005)], {}, "class", "class"),
    ([(EXACT, 0.3, 0.4)], {"config": replace(CONFIG, multi_label=False)}, "class", "class"),
    ([(NEAR, 0.0, 0.9)], {}, "both", "both"),
    ([(EXACT, 0.2)], {}, "score", ""),
    ([(EXACT, 0.0005)], {}, "score", "score"),
    ([(WORSE, 0.9), (SHIFTED, 0.8)], {}, "nms", "nms"),
    ([(WORSE, 0.9), (SHIFTED, 0.1)], {}, "localisation", "nms"),  # what was suppressed lies below the threshold
    ([(WORSE, 0.0, 0.9), (SHIFTED, 0.8)], {"config": replace(CONFIG, agnostic=True)}, "nms", "nms"),
    ([(WORSE, 0.9), (SHIFTED, 0.8), (EXACT, 0.2)], {"config": replace(CONFIG, iou=0.6)}, "nms", ""),
    ([(FAR, 0.9), (EXACT, 0.8)], {"config": replace(CONFIG, max_det=1)}, "limit", "limit"),
    ([(FAR, 0.9), (EXACT, 0.8)], {"config": replace(CONFIG, per_class=1)}, "limit", "limit"),
    ([(WORSE, 0.9), (SHIFTED, 0.8)], {"config": replace(CONFIG, max_det=1)}, "nms", "nms"),
    ([*FULL, (EXACT, 0.8)], {}, "limit", "limit"),  # detections of a class that COCO counts
    ([(FAR, 0.9), (EXACT, 0.8)], {"config": replace(CONFIG, max_det=1), "suppresses": False}, "limit", "limit"),
    ([(WORSE, 0.9), (SHIFTED, 0.8)], {"config": replace(CONFIG, max_det=1), "suppresses": False}, "limit", "limit"),
    ([(WORSE, 0.9), (SHIFTED, 0.8)], {"suppresses": False}, "", ""),
    ([(WORSE, 0.9), (SHIFTED, 0.8)], {"scale": 0.5}, "nms", "nms"),
])
def test_every_cause_is_found(candidates, options, at_best_f1, of_all):
    told = one(*candidates, **options)
    assert (causes(told, 0), causes(told, 1)) == ([at_best_f1], [of_all])


def test_a_box_counts_for_the_object_that_it_fits_best():
    told = one((EXACT, 0.9), objects=(A, B))
    assert causes(told) == ["", "taken"]
    told = one((EXACT, 0.9), (EXACT, 0.5), (B, 0.1), objects=(A, B))  # seen, but suppressed by its neighbour's
    assert causes(told) == ["", "taken"] and causes(told, 1) == ["", "nms"]
    near = (56, 40, 76, 60)  # the box of its neighbour overlaps it by a ninth
    told = one((EXACT, 0.9), objects=(A, near))
    assert causes(told) == ["", "none"]
    told = one((EXACT, 0.9, 0.0), objects=(A, EXACT), labels=[0, 1])  # of two classes on one place, one is found
    assert causes(told)[0] == ""


def test_images_that_nobody_looked_at():
    truth = truth_of([A, A], [0, 0], [0, 1], n=2)
    assert causes(diagnosed(truth, [[EXACT]], [[(0.9, 0)]])) == ["", "unseen"]


def test_crowds_are_no_objects():
    truth = truth_of([A, FAR], [0, 0])
    truth.crowd[1] = True
    told = diagnosed(truth, [[FAR, FAR]], [[(0.9, 0), (0.8, 0)]])
    assert causes(told) == ["none", ""] and told.alarms(told.views[0]).sum() == 0
    assert told.objects().sum() == 1


def test_kinds_of_false_alarms():
    told = one((EXACT, 0.9), (SHIFTED, 0.8), (A, 0, 0.7), (NEAR, 0.6), (NEAR, 0, 0.5), (FAR, 0.4), (FAR, 0, 0.1),
               config=replace(CONFIG, iou=0.9))
    expected = {"duplicate": 1, "class": 1, "localisation": 1, "both": 1, "background": 1}
    assert dict(zip([word.key for word in KINDS], told.alarms(told.views[0]).tolist(), strict=True)) == expected
    assert told.alarms(told.views[1]).sum() == 6


def test_sides_fall_into_bins():
    assert bins_of(np.array([0, 7.9, 8, 15.9, 16, 31.9, 32, 95.9, 96, 1e4])).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


def random_case(seed: int, **options) -> Diagnosis:
    random = np.random.default_rng(seed)
    m, n = int(random.integers(0, 30)), 3

    def corners(count: int) -> np.ndarray:
        low = random.integers(0, SIZE - 40, (count, 2))
        return np.concatenate((low, low + random.choice([4, 9, 20, 39], (count, 2))), 1).astype(float)

    objects = corners(m)
    truth = truth_of(objects, random.integers(0, 2, m), random.integers(0, n, m).tolist(), n)
    truth.crowd[:] = random.random(m) < 0.1
    boxes, scores = [], []
    for place in range(n):
        own = objects[truth.image == place]
        near = np.repeat(own, 6, 0) + random.normal(0, 2, (6 * len(own), 4))
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
        boxes.append(np.concatenate((near, corners(20))))
        scores.append(random.choice([0, 5e-5, 5e-4, 0.01, 0.1, 0.3, 0.9], (len(boxes[-1]), 2)) * random.random())
    return diagnosed(truth, boxes, scores, **options)


@pytest.mark.parametrize("seed", range(40))
def test_causes_are_all_that_is_missed(seed):
    config = replace(CONFIG, max_det=[300, 12][seed % 2], agnostic=seed % 5 == 0, multi_label=seed % 3 > 0)
    told = random_case(seed, config=config, suppresses=seed % 7 > 0)
    for view in told.views:
        right = (told.matches.state == 1) & (told.found.scores >= view.least)
        hits = np.unique(told.matches.objects[right])
        assert told.table(view).sum() == told.by_class(view).sum() == told.counted.sum() - len(hits)
        assert not view.missed[hits].any() and not view.missed[~told.counted].any()
        assert told.alarms(view).sum() == ((told.matches.state == 0) & (told.found.scores >= view.least)).sum()
    assert not (told.views[1].missed & ~told.views[0].missed).any()
    plain = summary(told)
    for key, view in zip(("best_f1", "all"), told.views, strict=True):
        part = plain["views"][key]
        assert part["missed"] == view.missed.sum() == sum(part["missed_by_cause"].values())
        assert part["missed"] == sum(part["missed_by_size"].values())
        assert part["missed"] == sum(sum(row.values()) for row in part["missed_by_cause_and_size"].values())


def test_summary_names_counts_and_sizes():
    told = one((EXACT, 0.9), objects=(A, FAR))
    lines = format_summary(told).splitlines()
    assert lines[0].startswith("of 2 objects 1 are missed at confidence 0.250")
    assert lines[1].split("pixels")[1].split() == " ".join([*BINS, "all"]).split()
    assert lines[2].split() == ["objects", "0", "0", "2", "0", "0", "2"]
    assert lines[3].split() == ["no", "prediction", "near", "it", "0", "0", "1", "0", "0", "1"]


def test_every_cause_has_words():
    assert len({word.key for word in CAUSES}) == len(CAUSES)
    assert all(word.title and word.meaning and word.advice for word in CAUSES)
    assert all(word.title and word.meaning for word in KINDS)


def test_nothing_at_all():
    told = one(objects=())
    assert told.table(told.views[0]).sum() == 0 and told.tide is None
    assert format_summary(told).startswith("of 0 objects 0 are missed")
    assert torch.is_grad_enabled()
