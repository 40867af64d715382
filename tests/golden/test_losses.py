"""Similarities, assignments, losses and their gradients against the originals (golden/README.md, section 4)."""

import numpy as np
import pytest
import torch

from models.assign.anchor_match import all_matches, match_anchors
from models.assign.ota import assign_ota
from models.assign.task_aligned import assign_task_aligned
from models.boxes.decoding import anchor_points, dfl_expectation, distances_to_boxes
from models.losses import (
    AnchorLossConfig,
    DFLLossConfig,
    TalOptions,
    anchor_head_loss,
    box_similarity,
    dfl_head_loss,
    scale_gains,
)
from tests.models.loss_cases import anchor_maps, anchor_raw, dfl_maps, pad_as_on_cuda, targets_from_rows
from utils.structures import Raw

CASES = ["A_nc3", "A_nc80", "C_nc3", "E_nc3"]
ANCHOR_LOSSES = ["loss_yolov5", "loss_sca_yolov3", "loss_yolov7", "loss_yolov7_ota", "loss_yolov7_aux_ota"]


@pytest.fixture(params=["cpu lists", "padded lists"])
def lists(request, monkeypatch):
    if request.param == "padded lists":
        pad_as_on_cuda(monkeypatch)


def _case(meta, arrays, case):
    if case not in meta["results"]:
        pytest.skip(f"{meta['name']} records no case {case}")
    name, classes = case.split("_nc")
    rows = arrays.get(f"targets_{name}", np.zeros((0, 6), np.float32))  # set E, no box at all, may be left out
    return meta["results"][case], targets_from_rows(rows, meta["batch"], 256), int(classes)


@pytest.mark.parametrize("source, kinds", [("scaloss", "iou giou diou ciou sca"), ("yolov7", "iou giou diou ciou"),
                                           ("ultralytics", "iou giou diou ciou")])
def test_box_similarity(golden, source, kinds):
    _, arrays = golden("box_similarity")
    truth = torch.from_numpy(arrays["box2"])
    for kind in kinds.split():
        boxes = torch.from_numpy(arrays["box1"]).requires_grad_()
        score = box_similarity(boxes, truth, kind)
        np.testing.assert_allclose(score.detach(), arrays[f"{source}_{kind}"], rtol=1e-5, atol=2e-6, err_msg=kind)
        key = f"{source}_{kind}_grad_box1"
        if key in arrays:
            (1 - score).sum().backward()
            np.testing.assert_allclose(boxes.grad, arrays[key], rtol=1e-4, atol=1e-5, err_msg=key)
    if source == "scaloss":
        half = box_similarity(torch.from_numpy(arrays["box1"]), truth, "sca", alpha=0.5)
        np.testing.assert_allclose(half, arrays["scaloss_sca_alpha0.5"], rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("release, min_side", [("8.1.47", 0.0), ("8.4.190", 16.0)])
def test_dfl_head_loss(golden, lists, release, min_side, case):
    meta, arrays = golden(f"loss_v8_{release}")
    expected, targets, classes = _case(meta, arrays, case)
    box, cls = dfl_maps(2, classes, 256)
    tal = TalOptions(min_side=min_side)

    if f"{case}_fg" in arrays:
        points, steps = anchor_points([m.shape[2:] for m in cls], meta["strides"], torch.device("cpu"))
        distances = torch.cat([dfl_expectation(m.flatten(2).transpose(1, 2)) for m in box], 1)
        found = assign_task_aligned(distances_to_boxes(distances * steps, points), [m.flatten(2) for m in cls], points,
                                    targets, tal)
        np.testing.assert_array_equal(found.box >= 0, arrays[f"{case}_fg"])
        np.testing.assert_array_equal(found.box, arrays[f"{case}_gt_idx"])
        np.testing.assert_allclose(found.score, arrays[f"{case}_score_sum"], rtol=1e-4, atol=1e-6)

    for m in (*box, *cls):
        m.requires_grad_()
    raw = Raw({"box": tuple(box), "cls": tuple(cls)}, (256, 256))
    losses = dfl_head_loss(raw, meta["strides"], targets, DFLLossConfig(meta["hyp"], tal=tal))
    assert list(losses) == expected["item_names"]
    np.testing.assert_allclose([v.item() / 2 for v in losses.values()], expected["items"], rtol=1e-4)
    total = sum(losses.values())
    np.testing.assert_allclose(total.item(), expected["total"], rtol=1e-4)
    total.backward()
    for i, (b, c) in enumerate(zip(box, cls, strict=True)):
        grad = torch.cat((b.grad, c.grad), 1)
        np.testing.assert_allclose(grad.norm(), expected["grad_l2"][i], rtol=1e-4)
        if f"{case}_grad_{i}" in arrays:
            np.testing.assert_allclose(grad, arrays[f"{case}_grad_{i}"], rtol=1e-3, atol=1e-6)


def _rows(positives, shape):
    """(image, anchor, row, column) rows of the positives, sorted, with the box each learns."""
    keep = positives.keep
    image, place, box = positives.image[keep], positives.place[keep], positives.box[keep]
    height, width = shape
    rows = torch.stack((image, place // (height * width), place // width % height, place % width), 1).tolist()
    return sorted((*row, b) for row, b in zip(rows, box.tolist(), strict=True))


def _expected_rows(arrays, prefix, level, targets, anchors, stride):
    """The stored rows with the index of the box, found again from the stored target."""
    index, value = arrays[f"{prefix}_idx_{level}"], arrays[f"{prefix}_val_{level}"]
    rows = []
    for (image, anchor, y, x), v in zip(index.tolist(), value, strict=True):
        if value.shape[1] == 7:  # class, box about the cell in grid units, anchor
            centre, side = (v[1:3] + (x, y)) * stride, v[3:5] * stride
            np.testing.assert_allclose(v[5:] * stride, anchors[anchor], rtol=1e-6)
            label = v[0]
        else:
            label, centre, side = v[1], v[2:4] * 256, v[4:] * 256
        wanted = torch.from_numpy(np.concatenate((centre - side / 2, centre + side / 2)))
        error = (targets.boxes[image] - wanted).abs().amax(-1) + 1e3 * (targets.labels[image] != label)
        assert error.min() < 1e-3
        rows.append((image, anchor, y, x, int(error.argmin())))
    return sorted(rows)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ANCHOR_LOSSES)
def test_anchor_head_loss(golden, lists, name, case):
    meta, arrays = golden(name)
    expected, targets, classes = _case(meta, arrays, case)
    strides = meta["strides"]
    anchors = torch.tensor(meta["anchors_px"], dtype=torch.float32).view(len(strides), -1, 2)
    maps = anchor_maps(2, classes, 256, strides)
    aux = anchor_maps(2, classes, 256, strides, first=len(strides)) if meta["n_maps"] > len(strides) else None
    shapes = [m.shape[2:4] for m in maps]

    for function, reach in (("build_targets", 0.5), ("build_targets2", 1.0)):
        if f"{case}_{function}_idx_0" not in arrays:
            continue
        matches = match_anchors(targets, anchors, strides, shapes, reach=reach)
        found = (assign_ota(maps, matches, anchors, strides, targets, top=20 if aux else 10) if "ota" in name
                 else all_matches(matches))
        for level, stride in enumerate(strides):
            wanted = _expected_rows(arrays, f"{case}_{function}", level, targets, anchors[level].numpy(), stride)
            assert _rows(found[level], shapes[level]) == wanted

    every = [*maps, *(aux or [])]
    for m in every:
        m.requires_grad_()
    config = AnchorLossConfig(meta["hyp"], "ota" if "ota" in name else "anchor", "sca" if "sca" in name else "ciou")
    losses = anchor_head_loss(anchor_raw(maps, 256, aux), anchors, strides, targets, config)
    assert list(losses) == expected["item_names"][:3]
    np.testing.assert_allclose([v.item() / 2 for v in losses.values()], expected["items"][:3], rtol=1e-4)
    total = sum(losses.values())
    np.testing.assert_allclose(total.item(), expected["total"], rtol=1e-4)
    total.backward()
    for i, m in enumerate(every):
        np.testing.assert_allclose(m.grad.norm(), expected["grad_l2"][i], rtol=1e-4)
        if f"{case}_grad_{i}" in arrays:
            np.testing.assert_allclose(m.grad, arrays[f"{case}_grad_{i}"], rtol=1e-3, atol=1e-6)


def test_scale_gains(golden):
    meta, _ = golden("schedule")
    for row in meta["facts"]["hyp_scaling"]:
        gains = scale_gains({"box": 0.05, "cls": 0.3, "obj": 0.7}, row["nl"], row["nc"], row["imgsz"])
        assert gains == pytest.approx({k: row[k] for k in ("box", "cls", "obj")}, rel=1e-9)
