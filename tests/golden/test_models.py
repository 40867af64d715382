"""Whole models against the original implementations: raw maps, decoded boxes and scores, before and after fusing."""

import copy

import pytest
import torch

from models import build_model
from models.layers.conv import Conv
from models.weights import import_state_dict
from tests.golden_rule import filled_state_dict, rule_input
from utils.boxes import xyxy_to_cxcywh

ANCHOR = {"yolov7": "yolov7", "yolov7-assn": "yolov7-assn", "yolov7-ss": "yolov7-ssfpn", "yolov7-w6": "yolov7-w6",
          "yolor-csp": "yolor-csp", "yolov5s": "yolov5s", "yolov3-tiny": "yolov3-tiny", "yolov4-p5": "yolov4-p5",
          "yolov4-p5-ss": "yolov4-p5-ssfpn"}
DFL = {"yolov8n": "yolov8n", "yolov8n-assn": "yolov8n-assn"}


@pytest.fixture(params=[*ANCHOR.items(), *DFL.items()], ids=lambda p: p[0], scope="module")
def case(request, golden):
    """(meta, arrays, our model with the original's weights) of one fixture."""
    fixture, ours = request.param
    meta, arrays = golden(fixture)
    model = build_model(ours, meta["nc"]).eval()
    import_state_dict(model, filled_state_dict(meta))
    return meta, arrays, model


def close(actual, expected, noise):
    torch.testing.assert_close(actual, torch.from_numpy(expected), rtol=0, atol=max(1e-4, 20 * noise))


def expected_prediction(array, family):
    """A fixture's prediction rows as (boxes cx cy w h, scores)."""
    if family == "yolov8":
        array = array.transpose(0, 2, 1)
        return array[..., :4], array[..., 4:]
    return array[..., :4], array[..., 4:5] * array[..., 5:]


def check_prediction(meta, model, images, array, step):
    boxes, scores = model.decode(model(images))
    wanted_boxes, wanted_scores = expected_prediction(array, meta["family"])
    noise = meta["noise_f32_vs_f64_max_abs"]
    torch.testing.assert_close(xyxy_to_cxcywh(boxes[:, ::step]), torch.from_numpy(wanted_boxes), rtol=1e-4,
                               atol=20 * noise["pred_box_px"])
    close(scores[:, ::step], wanted_scores, noise["pred_conf"])


def test_parameter_count_and_shapes(case):
    meta, _, model = case
    assert sum(p.numel() for p in model.parameters()) == meta["n_params"]
    kept = [k for k in meta["kept"] if "anchor" in k]
    theirs = sorted(tuple(shape) for key, shape, _ in meta["state_dict"] if key not in kept)
    assert sorted(tuple(v.shape) for v in model.state_dict().values()) == theirs
    assert model.strides == meta["strides"]


@torch.no_grad()
def test_raw_maps(case):
    meta, arrays, model = case
    raw = model(rule_input(meta["input_shape"]))
    for ours, theirs in (("lead", "raw"), ("aux", "aux_raw"), ("box", "raw_box"), ("cls", "raw_cls")):
        for i, level in enumerate(raw.maps.get(ours, ())):
            close(level, arrays[f"{theirs}_{i}"], meta["noise_f32_vs_f64_max_abs"][theirs][i])


@torch.no_grad()
def test_decoded_prediction(case):
    meta, arrays, model = case
    check_prediction(meta, model, rule_input(meta["input_shape"]), arrays["pred"], 1)


@torch.no_grad()
def test_decoded_prediction_of_non_square_input(case):
    meta, arrays, model = case
    name = "rect_pred_cols8" if meta["family"] == "yolov8" else "rect_pred_rows8"
    check_prediction(meta, model, rule_input(meta["rect_input_shape"]), arrays[name], 8)


@torch.no_grad()
def test_fused_prediction(case):
    meta, arrays, model = case
    fused = copy.deepcopy(model).fuse()
    images = rule_input(meta["input_shape"])
    check_prediction(meta, fused, images, arrays["pred"], 1)
    if "pred_fused_rows16" in arrays:
        check_prediction(meta, fused, images, arrays["pred_fused_rows16"], 16)
    assert not any(part in k for k in fused.state_dict() for part in ("rbr_dense", "im.", "m2.", "conv.bn.", "batch3d"))
    assert not any(isinstance(m, Conv) and isinstance(m.bn, torch.nn.BatchNorm2d) for m in fused.modules())
