"""SSD's head: decoding by hand, the order of channels, sizes of priors by name, options, classes in a state dict."""

import pytest
import torch

from models import build_model
from models.heads.ssd import SSDDetect, pick_sizes
from utils.errors import UserError
from utils.structures import Raw, Targets, pack_targets

ARGUMENTS = {"nc": 2, "sizes": [10, 40, 90], "ratios": [[2], [2]], "steps": [8, 16]}


def head(**options) -> SSDDetect:
    torch.manual_seed(0)
    return SSDDetect([4, 6], **{**ARGUMENTS, **options}).eval()


def empty(size: tuple[int, int] = (16, 16)) -> Raw:
    """Zeros: every box is its prior."""
    h, w = size
    return Raw({"loc": (torch.zeros(1, 16, h // 8, w // 8), torch.zeros(1, 16, h // 16, w // 16)),
                "conf": (torch.zeros(1, 12, h // 8, w // 8), torch.zeros(1, 12, h // 16, w // 16))}, size)


@torch.no_grad()
def test_box_and_scores_by_hand():
    raw = empty()
    raw.maps["loc"][0][0, 4:8, 0, 1] = torch.tensor([2.0, -1.0, 5.0, 0.0])  # prior 1 of the cell at (12, 4): 20 x 20
    raw.maps["conf"][0][0, 3:6, 0, 1] = torch.log(torch.tensor([0.5, 0.3, 0.2]))
    boxes, scores = head().decode(raw)
    assert boxes.shape == (1, 4 * 4 + 4, 4) and scores.shape == (1, 20, 2)
    centre, width = (12 + 2 * 0.1 * 20, 4 - 0.1 * 20), 20 * torch.e
    assert boxes[0, 5].tolist() == pytest.approx([centre[0] - width / 2, centre[1] - 10, centre[0] + width / 2,
                                                  centre[1] + 10])
    assert scores[0, 5].tolist() == pytest.approx([0.3, 0.2])  # the background is left out
    assert scores[0, 4].tolist() == pytest.approx([1 / 3, 1 / 3])


@torch.no_grad()
def test_yx_reads_the_same_numbers_in_another_order():
    plain, turned = head(), head(order="yx")
    raw, other = empty((16, 32)), empty((16, 32))
    torch.manual_seed(0)
    for ours, theirs in zip(raw.maps["loc"], other.maps["loc"], strict=True):
        ours.normal_()
        theirs.copy_(ours.unflatten(1, (4, 4))[:, :, [1, 0, 3, 2]].flatten(1, 2))
    torch.testing.assert_close(turned.decode(other), plain.decode(raw))
    targets = pack_targets([Targets(torch.tensor([[2.0, 3, 12, 9]]), torch.tensor([1]))])
    torch.testing.assert_close(turned.loss(other, targets), plain.loss(raw, targets))


def test_sizes_by_name():
    table = {"voc": [30, 60], "coco": [21, 45]}
    assert pick_sizes(table, "auto", 20) == [30, 60] and pick_sizes(table, "auto", 80) == [21, 45]
    assert pick_sizes(table, "coco", 20) == [21, 45] and pick_sizes([1, 2], "auto", 20) == [1, 2]
    with pytest.raises(UserError, match="voc, coco"):
        pick_sizes(table, "visdrone", 20)
    with pytest.raises(UserError, match="one table of prior sizes"):
        pick_sizes([1, 2], "coco", 20)


@pytest.mark.parametrize("name, option, classes, least", [
    ("ssd300", None, 20, 30), ("ssd300", None, 3, 21), ("ssd300", "voc", 3, 30), ("assd512", "coco", 20, 20.48),
    ("assd321", None, 20, 22.47), ("assd321", "voc", 20, 32.1), ("ssd300-r18", "voc", 80, 30)])
def test_models_take_sizes_by_name(name, option, classes, least):
    with torch.device("meta"):
        model = build_model(name, classes, priors=option)
    assert model.head.priors.sizes[0] == least


def test_a_model_file_of_two_lines_picks_the_sizes(tmp_path):
    (tmp_path / "mine.yaml").write_text("base: ssd300-r18\noptions: {priors: voc}\n")
    assert build_model(tmp_path / "mine.yaml", 3).head.priors.sizes[0] == 30


@pytest.mark.parametrize("options, told", [
    ({"order": "zx"}, "xy, yx"), ({"init": "he"}, "xavier, torch"), ({"clip": "some"}, "none, all, sides"),
    ({"gains": {"box": 1.0}}, "loc, conf"), ({"steps": [8, 16, 32]}, "3 steps need"), ({"neg_pos": -1.0}, "below 0")])
def test_wrong_options_are_told(options, told):
    with pytest.raises((UserError, ValueError), match=told):
        head(**options)


def test_maps_that_are_not_those_of_the_image_are_told():
    raw = empty()
    with pytest.raises(ValueError, match="stride 8"):
        head().decode(Raw(raw.maps, (32, 32)))


def test_first_weights():
    xavier, plain = head(), head(init="torch")
    assert not any(conv.bias.any() for conv in (*xavier.loc, *xavier.conf)) and plain.loc[0].bias.any()


@pytest.mark.parametrize("loc, conf", [("loc", "conf"), ("locs_layers", "conf_layers"),
                                       ("head.regression_head.module_list", "head.classification_head.module_list")])
def test_classes_show_in_a_state_dict(loc, conf):
    state = {f"{loc}.0.weight": torch.empty(16, 4, 3, 3), f"{conf}.0.weight": torch.empty(84, 4, 3, 3)}
    assert SSDDetect.count_classes(state, {}) == 20
    assert SSDDetect.count_classes({"x": torch.empty(3)}, {}) is None
