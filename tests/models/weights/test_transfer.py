"""Carrying weights in: by order from originals, by row between our own models, and what does not fit."""

from collections import OrderedDict

import pytest
import torch
import yaml

from models import build_model
from models.weights import import_state_dict, transfer
from tests.models import classic
from utils.errors import UserError


def renamed(model: torch.nn.Module) -> OrderedDict:
    """The state of a model under other names, with the anchors that originals store."""
    state = OrderedDict((f"net.{i}.{key.rpartition('.')[2]}", value.clone())
                        for i, (key, value) in enumerate(model.state_dict().items()))
    state["net.99.anchors"] = torch.zeros(3, 3, 2)
    return state


def test_order_carries_everything_but_geometry():
    source, model = build_model("yolov5n", 3), build_model("yolov5n", 3)
    report = import_state_dict(model, renamed(source))
    ours, theirs = model.state_dict().values(), source.state_dict().values()
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert len(report.transferred) == len(model.state_dict())
    assert list(report.left) == ["net.99.anchors"]
    assert "1 left (geometry" in str(report)


def test_equal_names_carry_in_any_order():
    source, model = build_model("yolov8n", 3), build_model("yolov8n", 3)
    shuffled = dict(reversed(source.state_dict().items()))
    import_state_dict(model, shuffled)
    assert torch.equal(source.head.cv2[0][0].conv.weight, model.head.cv2[0][0].conv.weight)


def test_counters_that_an_original_lacks_are_reported():
    source, model = build_model("yolov5n", 3), build_model("yolov5n", 3)
    state = {k: v for k, v in renamed(source).items() if not k.endswith("num_batches_tracked")}
    report = import_state_dict(model, state)
    assert all(key.endswith("num_batches_tracked") for key in report.kept)
    assert len(report.kept) + len(report.transferred) == len(model.state_dict())


def test_a_wrong_original_changes_nothing_and_names_the_first_mismatch():
    model = build_model("yolov5n", 3)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(UserError, match=r"has net\.\d+\.\w+ \(.*\) where the model has model\.24\.m\.0\.weight"):
        import_state_dict(model, renamed(build_model("yolov5n", 5)))
    short = OrderedDict(list(renamed(model).items())[:100])
    with pytest.raises(UserError, match="has 100 tensors, the model 348; the next one of the model is model"):
        import_state_dict(model, short)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_a_base_carries_into_its_neck_variant_with_other_classes():
    base, model = build_model("yolov8n", 80), build_model("yolov8n-assn", 3)
    report = transfer(model, base)
    assert torch.equal(base.model[21].cv2.conv.weight, model.model[21].cv2.conv.weight)
    assert torch.equal(base.head.cv2[1][2].weight, model.head.cv2[1][2].weight)  # one row further in the variant
    assert all(key.startswith("model.22.cv3") for key in report.left)
    assert {key.split(".")[1] for key in report.kept} == {"22", "23"}  # the neck, and the class branches of the head
    assert "shapes differ" in str(report)


def test_an_original_of_small_rows_carries_in_order():
    """YOLOv7 as its authors number it, 105 rows before the head, into our compound rows with a neck and 3 classes."""
    rows = yaml.safe_load(classic.yolov7([[102, 103, 104]])) | {"width_multiple": 0.25}
    base, model = build_model(rows, 80), build_model({"base": "yolov7", "neck": "assn", "width_multiple": 0.25}, 3)
    report = transfer(model, base)
    assert torch.equal(base.model[51].cv7.conv.weight, model.model[11].cv7.conv.weight)
    assert torch.equal(base.model[104].rbr_dense[0].weight, model.model[-3].rbr_dense[0].weight)
    assert torch.equal(base.head.ia[1].implicit, model.head.ia[1].implicit)
    assert list(report.left.values()) == ["shapes differ"] * 9  # weight, bias and factors of three levels
    assert {key.split(".")[1] for key in report.kept} == {str(len(model.model) - 2), str(len(model.model) - 1)}
    assert "tensors transferred; 9 left (shapes differ): model.105.m.0.weight" in str(report)


def test_order_stops_where_the_models_part():
    rows = yaml.safe_load(classic.yolov7([[102, 103, 104]])) | {"width_multiple": 0.25}
    base = build_model(rows, 3)
    rows["backbone"][17][3][0] = 64
    report = transfer(build_model({"base": "yolov7", "width_multiple": 0.25}, 3), build_model(rows, 3))
    assert report.transferred and report.left["model.17.conv.weight"] == "the models differ from there on"
    assert not any(their.startswith("model.17.") for their, _ in report.transferred)
    assert len(base.state_dict()) == len(report.transferred) + len(report.left)


def test_pixels_that_differ_are_told():
    rows = {"nc": 2, "backbone": [[-1, 1, "Conv", [8, 3, 2]]], "head": [[[0, 0], 1, "DFLDetect", ["nc"]]]}
    source = build_model({**rows, "pixels": {"order": "bgr"}})
    assert "'order': 'bgr'" in transfer(build_model(rows), source).left["pixels"]
    assert "pixels" not in transfer(build_model(rows), build_model(rows)).left
