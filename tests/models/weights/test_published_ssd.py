"""Published weights of SSD and ASSD, in the form that their code saves them: architecture, numbers, pixels, classes."""

import pytest
import torch
import torchvision
import yaml
from torch import Tensor, nn

from models import build_model
from models.heads.published_ssd import adapt, keep_outputs
from models.loading import load_model
from models.weights import import_original
from tests.golden_rule import filled_state_dict, rule_input
from tests.refusals import user_error
from utils.class_lists import COCO, COCO_IDS, VOC
from utils.config import CFG_ROOT


def save(folder, state) -> str:
    torch.save(dict(state), folder / "original.pth")
    return folder / "original.pth"


def without_normalisation(model: nn.Module) -> nn.Module:
    """Goldens are fed as they are."""
    model._normalised = lambda images: images
    return model


@torch.no_grad()
def flat_maps(model, images) -> tuple[Tensor, Tensor]:
    """Offsets (B, P, 4) in the order of the channels and logits (B, P, classes + 1)."""
    maps = model(images).maps
    return tuple(torch.cat([m.permute(0, 2, 3, 1).reshape(len(m), -1, width) for m in maps[name]], 1)
                 for name, width in (("loc", 4), ("conf", model.num_classes + 1)))


def test_class_lists():
    names = yaml.safe_load((CFG_ROOT / "data" / "voc.yaml").read_text())["names"]
    assert list(VOC) == names and len(COCO) == len(COCO_IDS) == 80 and COCO_IDS[-1] == 90
    assert COCO[COCO_IDS.index(13)] == "stop sign" and COCO[COCO_IDS.index(84)] == "book"


def test_the_ssd300_of_amdegroot(golden, tmp_path):
    meta, arrays = golden("ssd300-vgg")
    model, report = import_original(save(tmp_path, {f"module.{k}": v for k, v in filled_state_dict(meta).items()}))
    assert len(report.transferred) == meta["n_state_keys"] and not report.left and not report.kept
    assert ("vgg.31.weight", f"model.{1}.31.weight") in report.transferred
    assert model.names == list(VOC) and model.config["source"].endswith("ssd300.yaml")
    assert (model.pixels.scale, model.pixels.mean, model.pixels.order) == (255, (123, 117, 104), "rgb")
    loc, conf = flat_maps(without_normalisation(model.eval()), rule_input(meta["input_shape"]))
    noise = meta["noise_f32_vs_f64_max_abs"]
    torch.testing.assert_close(conf[:, ::5], torch.from_numpy(arrays["conf_rows5"]), rtol=0,
                               atol=max(1e-4, 20 * max(noise.values())))
    assert model.head.priors == build_model("ssd300", 20).head.priors


@pytest.mark.slow
def test_the_assd513_of_its_authors(golden, tmp_path):
    meta, arrays = golden("assd-resnet101-513")
    path = save(tmp_path, {f"module.{k}": v for k, v in filled_state_dict(meta).items()})
    model, report = import_original(path)
    assert len(report.transferred) == meta["n_state_keys"] == 742 and not report.left and not report.kept
    assert model.names == list(VOC) and sum(p.numel() for p in model.parameters()) == meta["n_params"]
    assert (model.pixels.order, model.pixels.mean) == ("bgr", (0.485, 0.456, 0.406))
    assert {(m.eps, m.momentum) for m in model.modules() if isinstance(m, nn.BatchNorm2d)} == {(1e-5, 0.1)}
    loc, conf = flat_maps(without_normalisation(model.eval()), rule_input(meta["input_shape"]))
    for ours, name in ((loc, "locs"), (conf, "conf")):
        key = next(k for k in arrays if k.startswith(name) or k.startswith(f"raw_{name}"))
        wanted = torch.from_numpy(arrays[key])
        step = -(-ours.shape[1] // wanted.shape[1])
        torch.testing.assert_close(ours[:, ::step], wanted, rtol=0, atol=1e-2)


def test_pixels_of_assd_are_those_of_its_code():
    """Red is the last channel that the network sees, with the mean of the first."""
    model = build_model("ssd300-r18", 20)
    model.pixels = type(model.pixels)(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), order="bgr")
    red = torch.zeros(1, 3, 2, 2)
    red[:, 0] = 1.0
    seen = model._normalised(red)[0, :, 0, 0]
    torch.testing.assert_close(seen, torch.tensor([-0.485 / 0.229, -0.456 / 0.224, (1 - 0.406) / 0.225]))


@pytest.fixture(scope="module")
def vision():
    """torchvision's own model with COCO's 91 outputs, its weights spread so that scores differ."""
    torch.manual_seed(0)
    model = torchvision.models.detection.ssd300_vgg16(weights=None, weights_backbone=None).eval()
    for name, value in model.named_parameters():
        if name.endswith("module_list.0.weight"):
            nn.init.normal_(value, std=0.02)
    return model


@pytest.fixture(scope="module")
def imported(vision, tmp_path_factory):
    path = save(tmp_path_factory.mktemp("vision"), vision.state_dict())
    return path, *import_original(path)


@torch.no_grad()
def test_the_ssd300_of_torchvision(vision, imported):
    _, model, report = imported
    assert not report.left and not report.kept and len(report.transferred) == len(vision.state_dict())
    assert model.names == list(COCO) and model.config["source"].endswith("ssd300.yaml")
    images = torch.rand(1, 3, 300, 300)
    theirs_in, _ = vision.transform([images[0]])
    torch.testing.assert_close(model._normalised(images), theirs_in.tensors, rtol=0, atol=1e-3)
    features = list(vision.backbone(theirs_in.tensors).values())
    theirs = vision.head(features)
    anchors = vision.anchor_generator(theirs_in, features)[0]
    model.eval()
    loc, conf = flat_maps(model, images)
    torch.testing.assert_close(loc, theirs["bbox_regression"], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(conf, theirs["cls_logits"][..., [0, *COCO_IDS]], rtol=1e-3, atol=1e-3)
    boxes, scores = model.decode(model(images))
    wanted = vision.box_coder.decode_single(theirs["bbox_regression"][0], anchors)
    usual = (loc[0, :, 2:] < 20).all(1)  # torchvision limits the logarithm of a side, which is t / 5, to 4.1
    assert usual.float().mean() > 0.95
    torch.testing.assert_close(boxes[0][usual], wanted[usual], rtol=1e-3, atol=1e-2)
    assert scores.shape[-1] == 80


def test_a_torchvision_model_of_other_classes_keeps_them(tmp_path, vision):
    state = vision.state_dict()
    for key in list(state):
        if ".classification_head." in key:
            state[key] = keep_outputs(state[key], 91, (0, 5, 7))
    model = load_model(save(tmp_path, state))
    assert model.num_classes == 2 and model.names == ["class0", "class1"]


@pytest.mark.slow
def test_a_file_with_something_more_is_refused(tmp_path, golden):
    state = filled_state_dict(golden("ssd300-vgg")[0])
    with user_error("unknown-model", "original.pth"):
        import_original(save(tmp_path, {**state, "extras.8.weight": torch.zeros(1)}))
    with user_error("weights-do-not-fit", "original.pth", "extras.8.weight"):
        import_original(save(tmp_path, {**state, "extras.8.weight": torch.zeros(1)}), "ssd300")


def test_outputs_are_kept_prior_by_prior():
    rows = torch.arange(12).reshape(12, 1)  # two priors of six outputs
    assert keep_outputs(rows, 6, (0, 2, 5)).flatten().tolist() == [0, 2, 5, 6, 8, 11]
    assert adapt({"loc.0.weight": torch.zeros(1)}, 7)[1].keys() == {"pixels"}
