"""RetinaNet's head, and its models against torchvision's, with weights carried by name."""

import re

import pytest
import torch
from torch import nn
from torchvision.models.detection import RetinaNet, retinanet_resnet50_fpn
from torchvision.models.detection.anchor_utils import AnchorGenerator

from models import build_model
from models.boxes.pyramid_anchors import PyramidAnchors
from models.detector import Detector
from models.heads.retina import RetinaDetect, _best_alone
from models.weights.convert_checkpoint import import_original
from models.weights.rename import fits, renamed
from utils.errors import UserError
from utils.select import SelectConfig
from utils.structures import Targets

SIZE, CLASSES = (96, 160), 5  # px; stride 64 does not divide it
LEVELS = [(12, 20), (6, 10), (3, 5), (2, 3), (1, 2)]


def carried(state: dict[str, torch.Tensor], model: Detector) -> dict[str, torch.Tensor]:
    """An original state dict under our names, by the head's table."""
    return renamed(model.model, state, model.head.renames)


@pytest.fixture(scope="module")
def pair() -> tuple[Detector, RetinaNet]:
    torch.manual_seed(0)
    theirs = retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=CLASSES, min_size=SIZE[0],
                                    max_size=SIZE[1]).eval()
    ours = build_model("retinanet-r50-torchvision", CLASSES, candidates=1000).eval()
    with torch.no_grad():
        for name, module in theirs.named_modules():
            if isinstance(module, nn.BatchNorm2d):  # constants; what `batch_norm` of our file says of their weights
                module.eps = 1e-12
                module.running_var.uniform_(0.5, 1.5)
                module.weight.uniform_(0.3, 0.6)
            elif name.startswith("head.") and isinstance(module, nn.Conv2d):  # far from the prior
                nn.init.normal_(module.weight, std=0.02)
                nn.init.normal_(module.bias, std=0.5)
    ours.load_state_dict(carried(theirs.state_dict(), ours))
    return ours, theirs


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    return torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(1))


def flat(maps: tuple[torch.Tensor, ...], width: int) -> torch.Tensor:
    return torch.cat([m.unflatten(1, (-1, width)).permute(0, 3, 4, 1, 2).reshape(len(m), -1, width) for m in maps], 1)


@torch.no_grad()
def test_forward_loss_and_detections_are_those_of_torchvision(pair, image):
    ours, theirs = pair
    raw = ours(image)
    batch, _ = theirs.transform([image[0]])
    assert batch.tensors.shape == image.shape
    features = list(theirs.backbone(batch.tensors).values())
    wanted = theirs.head(features)
    torch.testing.assert_close(flat(raw.maps["cls"], CLASSES), wanted["cls_logits"], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(flat(raw.maps["box"], 4), wanted["bbox_regression"], rtol=1e-3, atol=1e-3)

    anchors = theirs.anchor_generator(batch, features)
    torch.testing.assert_close(ours.head._boxes(raw), anchors[0], rtol=0, atol=0)

    truth = torch.tensor([[4.0, 8, 60, 70], [70, 5, 150, 90], [80, 40, 90, 52], [100, 20, 103, 90]])
    labels = torch.tensor([0, 3, 4, 1])
    losses = ours.loss(raw, [Targets(truth, labels)])
    reference = theirs.compute_loss([{"boxes": truth, "labels": labels}], wanted, anchors)
    torch.testing.assert_close(losses["cls"], reference["classification"], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(losses["box"], reference["bbox_regression"], rtol=1e-3, atol=1e-4)

    found, = ours.select(*ours.decode(raw), SelectConfig(0.05, 0.5, 300, multi_label=True))
    expected, = theirs([image[0]])
    assert len(found) == len(expected["scores"]) == 300
    torch.testing.assert_close(found.scores, expected["scores"], rtol=1e-4, atol=1e-4)
    same = (found.labels == expected["labels"]) & ((found.boxes - expected["boxes"]).abs().amax(1) < 0.05)
    assert same.float().mean() > 0.98  # nearly equal scores may change places


@torch.no_grad()
def test_without_a_limit_of_candidates_the_same_is_found_where_levels_have_fewer(pair, image):
    ours, _ = pair
    raw, unlimited = ours(image), build_model("retinanet-r50-torchvision", CLASSES).head
    boxes, limited = ours.decode(raw)
    _, scores = unlimited.decode(raw)
    assert not torch.equal(scores, limited)
    level = scores[0, :LEVELS[0][0] * LEVELS[0][1] * 9].flatten().sort(descending=True).values
    config = SelectConfig(level[900].item(), 0.5, 300, multi_label=True)
    found, wanted = (ours.select(boxes, s, config)[0] for s in (scores, limited))
    assert torch.equal(found.boxes, wanted.boxes)


def test_rows_carry_every_tensor_of_torchvision():
    with torch.device("meta"):
        theirs = retinanet_resnet50_fpn(weights=None, weights_backbone=None)
        ours = build_model("retinanet-r50-torchvision")
    state = theirs.state_dict()
    assert RetinaDetect.count_classes(state, {}) == ours.num_classes == 91
    assert fits(ours.model, state, RetinaDetect.renames)
    old = {re.sub(r"((?:inner|layer)_blocks\.\d|head\.conv\.\d)\.0\.", r"\1.", k): v for k, v in state.items()}
    assert old.keys() != state.keys()  # as published, before torchvision 0.14 wrapped the convolutions
    assert fits(ours.model, old, RetinaDetect.renames)


def test_a_published_file_is_imported_with_the_80_classes_that_have_a_name():
    with torch.device("meta"):
        theirs = retinanet_resnet50_fpn(weights=None, weights_backbone=None).state_dict()
        ours = build_model("retinanet-r50-torchvision", 80)
    bias = "head.classification_head.cls_logits.bias"
    theirs[bias] = torch.arange(9 * 91.0)  # the row of its anchor and raw id
    state, implied = RetinaDetect.adapt_original(theirs)
    assert fits(ours.model, state, RetinaDetect.renames)
    assert implied["names"][:12:11] == ["person", "stop sign"]  # stop sign is class 11 of 80 and id 13 of 90
    assert len(implied["names"]) == 80
    assert state[bias].reshape(9, 80)[2, :12:11].tolist() == [2 * 91 + 1, 2 * 91 + 13]
    other = {key: value for key, value in theirs.items() if key != bias} | {bias: torch.zeros(45)}
    other["head.classification_head.cls_logits.weight"] = torch.zeros(45, 256, 3, 3)
    assert RetinaDetect.adapt_original(other)[1] == {}


@torch.no_grad()
def test_a_file_of_torchvision_is_imported_without_its_code(pair, image, tmp_path):
    ours, theirs = pair
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    model, report = import_original(tmp_path / "theirs.pth")
    assert (model.config["name"], model.num_classes) == ("retinanet-r50-torchvision", CLASSES)
    assert len(report.transferred) == len(ours.state_dict())
    raw, wanted = model.eval()(image), ours(image)
    assert all(torch.equal(a, b) for name in ("cls", "box") for a, b in zip(raw.maps[name], wanted.maps[name],
                                                                         strict=True))


@pytest.mark.parametrize("name, millions", [("retinanet-r101", 55_716_120), ("retinanet-r101-att", 55_798_040)])
def test_parameters_are_those_of_the_paper(name, millions):
    """55.7 M and 55.8 M with 20 classes (Yi et al. 2019, table of VOC 2007)."""
    with torch.device("meta"):
        assert sum(p.numel() for p in build_model(name, 20).parameters()) == millions


def test_attention_is_one_unit_before_both_towers():
    torch.manual_seed(0)
    head = RetinaDetect([16] * 2, 3, strides=[8, 16], attention=True)
    levels = [torch.rand(1, 16, 4, 6), torch.rand(1, 16, 2, 3)]
    plain = RetinaDetect([16] * 2, 3, strides=[8, 16])
    plain.load_state_dict({k: v for k, v in head.state_dict().items() if not k.startswith("attend.")})
    wanted = plain([head.attend(x) for x in levels])
    for name, maps in head(levels).items():
        assert all(torch.equal(a, b) for a, b in zip(maps, wanted[name], strict=True))
    assert not torch.equal(head(levels)["cls"][0], plain(levels)["cls"][0])


def test_anchors_are_exact_unless_asked_otherwise():
    spec = PyramidAnchors((8, 16, 32, 64, 128))
    sizes = spec.sizes()
    boxes = spec.boxes(sizes, LEVELS, SIZE)
    assert boxes.shape == (sum(h * w for h, w in LEVELS) * 9, 4)
    area = sizes.prod(-1).sqrt() / torch.tensor(spec.strides)[:, None]
    torch.testing.assert_close(area, 4 * 2 ** (torch.arange(3).repeat(5, 3) / 3))
    ratios = torch.tensor([0.5, 1, 2]).repeat_interleave(3)
    torch.testing.assert_close(sizes[..., 1] / sizes[..., 0], ratios.repeat(5, 1))
    centres = (boxes[:, :2] + boxes[:, 2:])[::9] / 2
    torch.testing.assert_close(centres[20], torch.tensor([0.0, 8.0]), atol=1e-5, rtol=0)  # first of the second row
    torch.testing.assert_close(centres[-1], torch.tensor([128.0, 0.0]), atol=1e-4, rtol=0)
    generator = AnchorGenerator(tuple((s,) for s in (32, 64, 128, 256, 512)), ((0.5, 1.0, 2.0),) * 5)
    rounded = PyramidAnchors((8, 16, 32, 64, 128), octaves=1, rule="torchvision").sizes()
    wanted = torch.stack([cell[:, 2:] - cell[:, :2] for cell in generator.cell_anchors])
    assert torch.equal(rounded, wanted)


@pytest.mark.parametrize("shape", [(40, 3), (7, 30), (2, 2)])
def test_the_best_scores_of_a_level_are_kept(shape):
    scores = torch.rand(3, *shape, generator=torch.Generator().manual_seed(0))
    scores[1] = (scores[1] * 4).round() / 4  # ties
    kept = _best_alone(scores, 20)
    for image, left in zip(scores, kept, strict=True):
        last = image.flatten().sort(descending=True).values[:20][-1]
        assert torch.equal(left, image * (image >= last))


def test_levels_of_different_widths_are_refused():
    with pytest.raises(ValueError, match="shared by all levels, which have 16, 32 channels; make them equal"):
        RetinaDetect([16, 32], 3, strides=[8, 16])


@pytest.mark.parametrize("options, message", [({"positive": 0.3}, "negative <= positive"), ({"alpha": 2.0}, "alpha 2"),
                                              ({"octaves": 0}, "octaves 0"), ({"ratios": []}, "ratios"),
                                              ({"candidates": 0}, "candidates 0 of a level")])
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        RetinaDetect([16, 16], 3, strides=[8, 16], **options)
    with pytest.raises(UserError, match="anchors 'exakt' is not one of exact, torchvision; did you mean 'exact'"):
        RetinaDetect([16, 16], 3, strides=[8, 16], anchors="exakt")


def test_training_starts_from_the_prior():
    torch.manual_seed(0)
    head = RetinaDetect([32] * 2, 3, strides=[8, 16])
    with torch.no_grad():
        scores = torch.cat([m.flatten() for m in head([torch.rand(1, 32, 8, 8)] * 2)["cls"]]).sigmoid()
    assert scores.mean() == pytest.approx(0.01, rel=0.05)
