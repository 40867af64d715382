"""A level finer than the base's: widths, anchors, balance, necks, transfer by stride, messages."""

import copy

import numpy as np
import pytest
import torch

from engine.training.autoanchor import adapt_anchors
from models import build_model
from models.catalogue import resolve
from models.summary import format_summary, summarise
from models.weights import transfer
from utils.errors import UserError


def on_meta(*args, **kwargs) -> torch.nn.Module:
    with torch.device("meta"):
        return build_model(*args, **kwargs)


def test_yolov8_gets_the_top_down_step_of_its_published_p2_model():
    ours, published = on_meta("yolov8n", levels="p2"), on_meta("yolov8n-p2")
    step = [(node.module, node.channels, node.stride) for node in ours.model.nodes[22:25]]
    assert step == [(node.module, node.channels, node.stride) for node in published.model.nodes[16:19]]
    for a, b in zip(ours.model[24].parameters(), published.model[18].parameters(), strict=True):
        assert a.shape == b.shape


def test_branches_of_a_decoupled_head_keep_the_widths_of_the_base():
    """One class: 64 channels from the finest level of the base, 32 from the added one."""
    base, model = on_meta("yolov8n", 1), on_meta("yolov8n", 1, levels="p2")
    assert [b[0].out_channels for b in base.head.cv3] == [64, 64, 64]
    assert [b[0].out_channels for b in model.head.cv3] == [32, 64, 64, 64]
    assert [b[0].out_channels for b in model.head.cv2] == [64] * 4


def test_anchors_are_half_of_the_finest_and_a_full_table_stays():
    base, model = build_model("yolov5n", 3), build_model("yolov5n", 3, levels="p2")
    assert torch.equal(model.head.anchors, torch.cat((base.head.anchors[:1] / 2, base.head.anchors)))
    table = [[w, h] for w, h in torch.arange(24.0).view(12, 2).add(1).tolist()]
    full = resolve("yolov5n", 3, levels="p2") | {"anchors": [table[i:i + 3] for i in range(0, 12, 3)]}
    assert build_model(full).head.anchors.view(12, 2).tolist() == table
    coarse_first = resolve("yolov5n", 3, levels="p2")
    coarse_first["anchors"] = coarse_first["anchors"][::-1]
    assert torch.equal(build_model(coarse_first).head.anchors, model.head.anchors)
    with pytest.raises(UserError, match="2 lists of anchors for 4 levels"):
        build_model(resolve("yolov5n", 3, levels="p2") | {"anchors": coarse_first["anchors"][:2]})


def test_anchors_are_fitted_for_all_levels_and_stay_when_resolved_again():
    config = resolve("yolov5n", 3, levels="p2")
    kept, note = adapt_anchors(config, np.full((50, 2), 40.0), 640)
    assert kept["anchors"] == config["anchors"] and note.endswith("kept")
    sizes = np.random.default_rng(0).uniform(2, 9, (200, 2)) * [1, 30]
    fitted, _ = adapt_anchors(config, sizes, 640)
    assert len(fitted["anchors"]) == 4
    head = build_model(resolve(copy.deepcopy(fitted))).head
    assert np.allclose(head.anchors.numpy(), np.array(fitted["anchors"]))


@pytest.mark.parametrize("name, expected", [
    ("yolov5n", (4.0, 1.0, 0.25, 0.06)), ("yolov5n6", (4.0, 1.0, 0.25, 0.06, 0.02)),
    ("yolor-p6", (4.0, 1.0, 0.4, 0.1, 0.025))])
def test_balance_and_gains_follow_the_number_of_levels(name, expected):
    head = on_meta({"base": name, "width_multiple": 0.125}, 3, levels="p2").head
    assert head.loss_config.level_balance(len(head.strides)) == pytest.approx(expected)
    assert head.scale_gains({"box": 1.0}, 640)["box"] == pytest.approx(3 / len(expected))


@pytest.mark.parametrize("name, neck, levels, read", [
    ("yolov8n", "assn", None, [4, 8, 16, 32]),
    ("yolov7-w6", "assn", [0, 1, 2, 3, 4], [4, 8, 16, 32, 64]),
    ("yolov7-w6", "ssfpn", [5, 6, 7, 8, 9], [4, 8, 16, 32, 64]),  # of the auxiliary heads, as on the base
    ("yolor-p6", "ssfpn", [0, 1, 4, 3, 2], [4, 8, 64, 32, 16])])
def test_a_neck_reads_and_replaces_the_added_level(name, neck, levels, read):
    model = on_meta({"base": name, "width_multiple": 0.25}, 3, neck=neck, levels="p2")
    node, head = model.model.nodes[-2], model.model.nodes[-1]
    assert model.config["neck"].get("levels") == levels
    assert [model.model.nodes[s].stride for s in node.sources] == read
    assert head.sources[(levels or [0])[0]] == node.index


def test_levels_of_a_neck_that_are_written_beside_it_index_the_inputs_as_they_are():
    model = on_meta({"base": "yolov8n", "levels": "p2", "neck": {"type": "assn", "levels": [1, 2]}})
    assert model.model.nodes[-2].sources == (15, 18)
    assert model.model.nodes[-1].sources == (24, 25, 18, 21)


def test_a_trained_model_with_a_neck_gets_the_level_for_its_neck_too():
    base = resolve("yolov8n-assn", 3)
    base["neck"]["levels"] = [0, 1, 2]
    assert resolve(base, levels="p2")["neck"]["levels"] == [0, 1, 2, 3]


def test_levels_of_a_head_meet_by_stride():
    model, base = build_model("yolov8n-p2", 3), build_model("yolov8n", 3)
    report = transfer(model, base)
    assert ("model.22.cv2.0.2.weight", "model.28.cv2.1.2.weight") in report.transferred
    back = transfer(base, model)
    assert any(key.startswith("model.28.cv2.0.") for key in back.left)
    assert ("model.28.cv2.1.2.weight", "model.22.cv2.0.2.weight") in back.transferred


def test_what_cannot_be_is_told():
    with pytest.raises(UserError, match="levels 'p3' is not one of p2"):
        build_model("yolov8n", levels="p3")
    with pytest.raises(UserError, match="`levels` must be p2"):
        build_model({"base": "yolov8n", "levels": ["p2"]})
    rows = {"nc": 2, "backbone": [[-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [8, 3, 2]],
                                  [-1, 1, "Conv", [8, 3, 2]]], "head": [[[2, 3], 1, "Detect", ["nc"]]]}
    with pytest.raises(UserError, match="no top-down step to stride 8 that could be repeated at 4"):
        build_model(rows, levels="p2")
    with pytest.raises(UserError, match="must list its finest level first"):
        build_model({**rows, "head": [[[3, 2], 1, "Detect", ["nc"]]]}, levels="p2")


def test_summary_names_the_level():
    model = on_meta("yolov8n", levels="p2")
    text = format_summary(model, summarise(model, 64))
    assert text.endswith("strides 4, 8, 16, 32, neck pan, level p2 added")
    assert "C2f (p2)" in text
