"""`--levels p2` on every base: narrow copies, so that all of them are tried."""

import copy
import json

import pytest
import torch

from engine.export.config import ExportConfig
from engine.export.export import export
from models import build_model, known_models, load_model
from models.catalogue import resolve
from models.weights import transfer
from tests.contracts.test_models import SIZE, all_models, families, images, narrow, stirred, targets
from utils.checkpoint import save_checkpoint
from utils.errors import UserError


def has_yolo_head(name: str) -> bool:
    return "frame" not in resolve(name)


BASES = [name for name in known_models() if has_yolo_head(name) and "-p2" not in name]
OTHERS = [name for name in known_models() if name not in BASES]


def finer(name: str, **changes) -> dict:
    config = narrow(name, **changes)
    return resolve(config, levels="p2")


@pytest.mark.parametrize("name", [model for model in all_models() if model.values[0] in BASES])
def test_every_base_gets_one_level_of_half_its_finest_stride(name):
    with torch.device("meta"):
        base, model = build_model(narrow(name, depth=0.3)), build_model(finer(name, depth=0.3))
    assert model.strides == [base.strides[0] // 2, *base.strides]
    nodes, body = model.model.nodes, len(base.model.nodes) - 1
    assert [(n.module, n.channels) for n in nodes[:body]] == [(n.module, n.channels) for n in base.model.nodes[:body]]
    heads = len(nodes[-1].sources) // len(model.strides)
    lateral = max(i for i in range(len(base.config["backbone"])) if nodes[i].stride == model.strides[0])
    assert lateral in {s for node in nodes[body:] for s in node.sources}
    for k in range(heads):  # half as wide as the finest of the base, up to the rounding to 8 channels
        at, was = (m.model.nodes[-1].sources for m in (model, base))
        new, old = nodes[at[k * len(model.strides)]].channels, nodes[was[k * len(base.strides)]].channels
        assert abs(new - old / 2) <= 8


@pytest.mark.parametrize("name", OTHERS)
def test_others_are_refused_in_one_sentence(name):
    with torch.device("meta"), pytest.raises(UserError, match="^levels p2: .*(model file|leave `levels` out)$"):
        build_model(narrow(name), levels="p2")


@pytest.mark.parametrize("name", [n for n in families() if n in BASES])
def test_a_finer_level_learns_fuses_transfers_and_survives_a_checkpoint(name, tmp_path):
    torch.manual_seed(0)
    base = stirred(build_model(narrow(name, depth=0.3)))
    model = stirred(build_model(finer(name, depth=0.3)))
    sum(model.train().loss(model(images(model)), targets()).values()).backward()
    for key, parameter in model.named_parameters():
        assert not parameter.requires_grad or torch.isfinite(parameter.grad).all(), key
    report = transfer(model, base)
    assert not report.left
    assert len(report.transferred) == len(base.state_dict())
    with torch.no_grad():
        raw, before = model.eval()(images(model)), base.eval()(images(base))
        for part, maps in before.maps.items():  # the base's own levels, to the last digit
            assert all(torch.equal(a, b) for a, b in zip(raw.maps[part][1:], maps, strict=True))
    save_checkpoint({"format": "assn/1", "config": json.loads(json.dumps(model.config)), "names": model.names,
                     "model": model.state_dict()}, tmp_path / "best.pt")
    again = load_model(tmp_path / "best.pt")
    assert again.config == model.config and again.strides == model.strides
    with torch.no_grad():
        expected = model.decode(raw)
        assert all(torch.equal(a, b) for a, b in zip(again.decode(again(images(model))), expected, strict=True))
        fused = again.fuse()(images(model))
        assert "aux" not in fused.maps
    boxes, scores = again.decode(fused)
    torch.testing.assert_close(boxes, expected[0], rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(scores, expected[1], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name, neck", [("yolov3-tiny", None), ("yolov4-p5", "ssfpn"), ("yolov5n6", "assn"),
                                        ("yolor-p6", "ssfpn"), ("yolov7-w6", "ssfpn"), ("yolov8n", "assn")])
def test_onnx(name, neck, tmp_path):
    torch.manual_seed(0)
    model = build_model(finer(name, neck=neck, depth=0.3)).eval()
    for comparison in export(model, tmp_path / "model.onnx", ExportConfig(imgsz=SIZE)).comparisons:
        assert comparison.boxes < 0.01
        assert comparison.scores < 1e-4


def test_a_model_with_the_level_resolves_to_itself():
    config = finer("yolov7-w6", neck="ssfpn")
    assert resolve(copy.deepcopy(config)) == config == resolve(copy.deepcopy(config), levels="p2")
