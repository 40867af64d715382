"""Checkpoints of the original code bases: what is read from them, and that they give the original's numbers."""

import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from yaml import safe_load as load_yaml

from engine.export.config import ExportConfig
from engine.export.export import export
from models import build_model, load_model
from models.weights import import_original, import_state_dict, read_original, transfer
from tests.golden_rule import filled_state_dict, rule_input
from tests.models import classic
from tests.models.weights.original_files import V5, V8, numbered, original, write
from utils.boxes import xyxy_to_cxcywh
from utils.checkpoint import is_ours, save_checkpoint
from utils.errors import UserError

NAMES = ["red cell", "white cell", "platelet"]


def golden_state(meta):
    """The original's whole state: the filled entries and the geometry."""
    state = filled_state_dict(meta)
    whole = {}
    for key, shape, _ in meta["state_dict"]:
        if key.endswith("anchors"):
            px = torch.tensor(meta["anchors_px"])
            state[key] = px / torch.tensor(meta["strides"])[:, None, None]
        elif key.endswith("anchor_grid"):
            state[key] = torch.tensor(meta["anchors_px"]).reshape(shape)
        elif key.endswith("dfl.conv.weight"):
            state[key] = torch.arange(16.0).reshape(shape)
        whole[key] = state[key]
    return whole


def tiny(path=None, nc=3, act=None, eps=1e-3, anchors=None, half=True, scale=(0.33, 0.125), **attributes):
    """(our yolov5 of little width, the same as an original)."""
    yaml = numbered("yolov5", nc, depth_multiple=scale[0], width_multiple=scale[1])
    yaml.pop("scales")
    ours = build_model({**yaml, "activation": "SiLU"}, nc).eval()
    for name, value in ours.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
    ours.load_state_dict({k: v.half().float() if v.is_floating_point() else v for k, v in ours.state_dict().items()})
    grid = torch.tensor(anchors or yaml["anchors"]).float().reshape(3, 3, 2) / torch.tensor([8, 16, 32])[:, None, None]
    state = {k: v.clone() for k, v in ours.state_dict().items()}
    head = {k: state.pop(k) for k in list(state) if k.startswith("model.24.")}
    state = {**state, "model.24.anchors": grid, **head}
    model, classes = original(state, yaml, V5, act=act, eps=eps, nc=nc, names=NAMES[:nc],
                              stride=torch.tensor([8.0, 16.0, 32.0]), **attributes)
    return ours, (model.half() if half else model), classes


def same(ours, loaded):
    theirs = loaded.state_dict()
    assert theirs.keys() == ours.state_dict().keys()
    assert all(torch.equal(v, theirs[k]) and v.dtype == theirs[k].dtype for k, v in ours.state_dict().items())


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "stream"])
def test_a_training_checkpoint_in_fp16_is_read_whole(tmp_path, legacy):
    ours, model, classes = tiny()
    path = write(tmp_path / "best.pt", model, classes, legacy=legacy)
    assert "models.yolo" not in sys.modules and "models.common" not in sys.modules
    loaded = load_model(path)
    same(ours, loaded)
    assert loaded.names == NAMES and loaded.strides == [8, 16, 32] and not loaded.training
    assert loaded.config["trained"] == {"imgsz": [320]}
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for a, b in zip(ours.decode(ours(images)), loaded.decode(loaded(images)), strict=True):
        torch.testing.assert_close(a, b)


def test_averaged_weights_are_preferred(tmp_path):
    ours, averaged, classes = tiny()
    path = tmp_path / "last.pt"
    with classes.importable():
        torch.save({"model": nn.Linear(1, 1), "ema": averaged, "updates": 3}, path)
    same(ours, load_model(path))
    assert read_original(path).part == "ema"


def test_what_the_model_file_does_not_say_is_read_from_the_modules(tmp_path):
    searched = [[11.3, 13.7, 16, 30, 33, 23], [30, 61, 62, 45, 59, 119], [116, 90, 156, 198, 373, 326]]
    _, model, classes = tiny(act=nn.LeakyReLU(0.1), eps=1e-5, anchors=searched, half=False)
    model.get_submodule("model.3.bn").eps = 1e-4
    model.get_submodule("model.5").act = nn.Hardswish()
    loaded = load_model(write(tmp_path / "a.pt", model, classes))
    assert loaded.model[0].act.negative_slope == 0.1 and isinstance(loaded.model[5].act, nn.Hardswish)
    assert loaded.model[0].bn.eps == 1e-5 and loaded.model[3].bn.eps == 1e-4 and loaded.model[0].bn.momentum == 0.03
    torch.testing.assert_close(loaded.head.anchors.flatten(1), torch.tensor(searched))

    images = torch.rand(1, 3, 64, 64)
    ours = {"config": loaded.config, "names": loaded.names, "model": loaded.state_dict()}
    save_checkpoint(ours, tmp_path / "ours.pt")
    again = load_model(tmp_path / "ours.pt")
    for a, b in zip(loaded.decode(loaded(images)), again.decode(again(images)), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(loaded.decode(loaded(images)), again.fuse().decode(again(images)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_a_count_in_place_of_anchors_is_filled_from_the_file(tmp_path):
    ours, model, classes = tiny()
    model.yaml["anchors"] = 3
    loaded = load_model(write(tmp_path / "auto.pt", model, classes))
    torch.testing.assert_close(loaded.head.anchors, ours.head.anchors)


def test_numbers_written_out_in_the_head_row_follow_a_change_of_classes(tmp_path):
    ours, model, classes = tiny()
    model.yaml["head"][-1][3] = [3, model.yaml.pop("anchors")]
    loaded = load_model(write(tmp_path / "own.pt", model, classes))
    same(ours, loaded)
    other = build_model(loaded.config, 5)
    assert other.num_classes == 5 and torch.equal(other.head.anchors, loaded.head.anchors)
    report = transfer(other, loaded)
    assert set(report.left.values()) == {"shapes differ"} and all(k.startswith("model.24.m.") for k in report.left)


def test_a_wrapped_and_fused_model_becomes_an_ordinary_one(tmp_path):
    ours, model, classes = tiny(half=False)
    images = torch.rand(1, 3, 64, 64)
    expected = ours.decode(ours(images))
    fused = ours.fuse()
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.BatchNorm2d) and name.endswith(".bn"):
            parent = model.get_submodule(name.removesuffix(".bn"))
            del parent.bn
            parent.conv = fused.get_submodule(name.removesuffix(".bn")).conv
    holder = torch.nn.DataParallel(model)
    with classes.importable():
        torch.save({"model": holder}, tmp_path / "fused.pt")
    loaded = load_model(tmp_path / "fused.pt")
    assert loaded.model[0].bn.weight.requires_grad
    for a, b in zip(expected, loaded.decode(loaded(images)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)


def test_widths_that_ultralytics_left_unscaled(tmp_path):
    """Before 8.4 a row whose width equals the number of classes was not scaled."""
    yaml = numbered("yolov8", 128, scale="n")
    rows = [[*row[:3], [256 * 2, *row[3][1:]]] if row[3] and row[3][0] == 128 else row
            for row in (*yaml["backbone"], *yaml["head"])]
    cut = len(yaml["backbone"])
    ours = build_model({**yaml, "backbone": rows[:cut], "head": rows[cut:]}, 128)
    assert ours.model[1].out_channels == 128
    model, classes = original(ours.state_dict(), yaml, V8, names={i: f"c{i}" for i in range(128)})
    loaded = load_model(write(tmp_path / "v8.pt", model, classes))
    same(ours, loaded)
    assert loaded.names[127] == "c127"


@torch.no_grad()
def test_the_class_branch_of_ultralytics_8_3_0(tmp_path):
    """Depthwise 3x3, 1x1, depthwise 3x3, 1x1, as its YOLO11; the model file inside does not say so."""
    yaml = numbered("yolov8", 3, scale="n")
    ours = build_model(yaml, 3, names=["a", "b", "c"], class_branch="depthwise")
    assert sum(p.numel() for p in ours.head.cv3.parameters()) < 62_000
    for name, value in ours.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
    state = ours.state_dict()
    assert state["model.22.cv3.0.0.0.conv.weight"].shape == (64, 1, 3, 3)
    model, classes = original(state, yaml, V8, names={0: "a", 1: "b", 2: "c"}, stride=torch.tensor([8.0, 16.0, 32.0]))
    loaded = load_model(write(tmp_path / "v8.pt", model, classes))
    same(ours, loaded)
    x, head = torch.rand(1, 64, 8, 8), loaded.head
    y = x
    for part in ("0.0", "0.1", "1.0", "1.1"):
        weight, *norm = (state[f"model.22.cv3.0.{part}.{word}"] for word in
                         ("conv.weight", "bn.running_mean", "bn.running_var", "bn.weight", "bn.bias"))
        groups = y.shape[1] if weight.shape[2] == 3 else 1
        y = F.silu(F.batch_norm(F.conv2d(y, weight, padding=weight.shape[2] // 2, groups=groups), *norm, eps=1e-3))
    y = F.conv2d(y, state["model.22.cv3.0.2.weight"], state["model.22.cv3.0.2.bias"])
    torch.testing.assert_close(head.cv3[0](x), y, rtol=1e-4, atol=1e-4)

    images = torch.rand(1, 3, 64, 64)
    expected = loaded.decode(loaded(images))
    save_checkpoint({"config": loaded.config, "names": loaded.names, "model": loaded.state_dict()}, tmp_path / "o.pt")
    torch.save(state, tmp_path / "bare.pt")
    for path in ("o.pt", "bare.pt"):
        again = load_model(tmp_path / path)
        same(loaded, again)
        for a, b in zip(expected, again.fuse().decode(again(images)), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)
    assert all(c.scores < 1e-4 for c in export(loaded, tmp_path / "o.onnx", ExportConfig(imgsz=(64, 64))).comparisons)
    assert build_model(loaded.config, 5).head.cv3[0][0][0].conv.groups == 64  # fine-tuning keeps the form


@pytest.mark.parametrize("name, prefix", [("yolov8n", ""), ("yolov7-tiny", "module."), ("yolov5n", "")])
def test_a_bare_state_dict_is_recognised(tmp_path, name, prefix):
    ours = build_model(name, 5)
    torch.save({prefix + k: v for k, v in ours.state_dict().items()}, tmp_path / "weights.pth")
    loaded = load_model(tmp_path / "weights.pth")
    assert loaded.config["name"] == name and loaded.num_classes == 5
    same(ours, loaded)


def test_a_state_dict_that_we_do_not_know(tmp_path):
    yaml = numbered("yolov5", 2, depth_multiple=0.33, width_multiple=0.125)
    yaml.pop("scales")
    ours = build_model(yaml, 2)
    path = tmp_path / "own.pth"
    torch.save({"state_dict": ours.state_dict()}, path)
    with pytest.raises(UserError, match=r"own\.pth: a bare state dict .* none of our models has these 348 tensors"):
        load_model(path)
    same(ours, load_model(path, cfg=yaml))
    with pytest.raises(UserError, match=r"own\.pth: weights do not fit: the original has model\.0\.conv\.weight"):
        load_model(path, cfg="yolov5s")


def test_rows_that_we_cannot_build_are_named(tmp_path):
    _, model, classes = tiny()
    model.yaml["backbone"][3][2] = "Convv"
    with pytest.raises(UserError, match=r"custom\.pt row 3 \(Convv\): unknown module; did you mean 'Conv'"):
        load_model(write(tmp_path / "custom.pt", model, classes))


def test_an_activation_that_we_do_not_have_is_named(tmp_path):
    _, model, classes = tiny()
    model.get_submodule("model.5").act = classes("AconC")
    with pytest.raises(UserError, match=r"own\.pt: row 5: activation 'AconC' is not one of SiLU"):
        load_model(write(tmp_path / "own.pt", model, classes))


def test_names_that_do_not_match_the_classes_are_reported(tmp_path):
    _, model, classes = tiny(nc=2)
    model.names = NAMES
    loaded, report = import_original(write(tmp_path / "own.pt", model, classes))
    assert loaded.names == ["class0", "class1"] and report.left["names"] == "3 class names for 2 classes"


def test_weights_of_other_shapes_are_named(tmp_path):
    _, model, classes = tiny()
    model.yaml["backbone"][0][3][0] = 128
    with pytest.raises(UserError, match=r"wide\.pt: weights do not fit: the original has model\.0\.conv\.weight"):
        load_model(write(tmp_path / "wide.pt", model, classes))


FILES = {"yolov5s": (classic.yolov5(), V5, nn.SiLU()), "yolov7": (classic.yolov7([[102, 103, 104]]), V5, nn.SiLU()),
         "yolov7-assn": (classic.assn_yolov7(), V5, nn.SiLU()),
         "yolov8n-assn": (classic.yolov8_assn(), V8, nn.SiLU()),
         "yolov4-p5-ss": (classic.yolov4_p5_sequence(), V5, nn.Mish())}


@pytest.mark.parametrize("fixture", [*FILES, "yolov8n"])
@torch.no_grad()
def test_an_original_gives_the_original_numbers(golden, tmp_path, fixture):
    meta, arrays = golden(fixture)
    text, paths, act = FILES.get(fixture, (None, V8, None))
    yaml = load_yaml(text) if text else numbered("yolov8", 80, scale="n")
    yaml.pop("activation", None)  # the modules themselves must tell
    model, classes = original(golden_state(meta), yaml, paths, act=act, stride=torch.tensor(meta["strides"]))
    loaded = load_model(write(tmp_path / f"{fixture}.pt", model, classes))
    check(loaded, meta, arrays)


@torch.no_grad()
@pytest.mark.slow
def test_the_released_form_of_yolov7(golden, tmp_path):
    """A plain head into which the implicit constants are folded, beside RepConv that are not."""
    meta, arrays = golden("yolov7")
    model = build_model("yolov7", 80)
    import_state_dict(model, filled_state_dict(meta))
    model.head.fuse()
    folded = {f"model.105.{k}": v for k, v in model.head.state_dict().items()}
    state = {k: v for k, v in golden_state(meta).items() if ".ia." not in k and ".im." not in k} | folded
    rows = load_yaml(classic.yolov7([[102, 103, 104]], head="Detect"))
    loaded = load_model(write(tmp_path / "yolov7.pt", *original(state, rows, V5)))
    check(loaded, meta, arrays)
    torch.save(golden_state(meta), tmp_path / "flat.pt")
    check(load_model(tmp_path / "flat.pt"), meta, arrays)
    torch.save(state, tmp_path / "flat.pt")
    flat = load_model(tmp_path / "flat.pt")
    assert type(flat.head) is type(loaded.head) and len(flat.model) < len(loaded.model)
    check(flat, meta, arrays)


def check(loaded, meta, arrays):
    """Boxes and scores of the fixture's input."""
    boxes, scores = loaded.decode(loaded(rule_input(meta["input_shape"])))
    wanted = torch.from_numpy(arrays["pred"])
    noise = meta["noise_f32_vs_f64_max_abs"]
    if meta["family"] == "yolov8":
        wanted = wanted.transpose(1, 2)
        wanted_scores = wanted[..., 4:]
    else:
        wanted_scores = wanted[..., 4:5] * wanted[..., 5:]
    torch.testing.assert_close(xyxy_to_cxcywh(boxes), wanted[..., :4], rtol=1e-4, atol=20 * noise["pred_box_px"])
    torch.testing.assert_close(scores, wanted_scores, rtol=0, atol=max(1e-4, 20 * noise["pred_conf"]))


def test_a_checkpoint_of_ours_in_another_order_is_still_ours(tmp_path):
    model = build_model("yolov5n", 2, names=["a", "b"])
    content = {"model": model.state_dict(), "names": model.names, "config": model.config, "format": "assn/1"}
    torch.save(content, tmp_path / "ours.pt")
    assert is_ours(tmp_path / "ours.pt") and load_model(tmp_path / "ours.pt").names == ["a", "b"]


@torch.no_grad()
def test_a_fused_yolov7_gets_its_branches_and_constants_back(tmp_path):
    rows = load_yaml(classic.yolov7([[102, 103, 104]])) | {"width_multiple": 0.125}
    ours, images = build_model(rows, 3).eval(), torch.rand(1, 3, 64, 64)
    for name, value in ours.state_dict().items():
        if name.endswith(("running_var", "bn.weight", "implicit")):
            value.uniform_(0.5, 1.5)
    expected = ours.decode(ours(images))
    loaded = load_model(write(tmp_path / "fused.pt", *original(ours.fuse().state_dict(), rows, V5)))
    assert hasattr(loaded.model[102], "rbr_dense") and len(loaded.head.ia) == 3
    assert loaded.num_classes == 3
    for a, b in zip(expected, loaded.decode(loaded(images)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)
