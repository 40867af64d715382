"""Model files: how rows are read, how names compose, and what a mistake is told as."""

import copy

import pytest
import torch
import yaml

from benchmarks.zoo import PUBLISHED, PUBLISHED_VOC, VOC_CLASSES
from models import build_model, known_models
from models.catalogue import resolve
from models.registry import register
from tests.refusals import refused
from utils.config import CFG_ROOT
from utils.errors import UserError

TINY = {"nc": 3, "anchors": [[10, 13, 16, 30], [30, 61, 62, 45]],
        "backbone": [[-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [16, 3, 2]], [-1, 2, "C3", [16]],
                     [-1, 1, "Conv", [32, 3, 2], "deep"]],
        "head": [["deep", 1, "nn.Upsample", ["None", 2, "nearest"]], [[-1, 2], 1, "Concat", [1]],
                 [-1, 1, "Conv", [16, 3], "fine"], [["fine", "deep"], 1, "Detect", ["nc", "anchors"]]]}


def changed(row: int, entry) -> dict:
    """TINY with one row replaced; rows count over backbone and head."""
    config = copy.deepcopy(TINY)
    part, index = ("backbone", row) if row < 4 else ("head", row - 4)
    config[part][index] = entry
    return config


def test_rows_by_number_name_and_mapping():
    model = build_model(TINY)
    assert model.strides == [4, 8]
    assert [n.channels for n in model.model.nodes[:-1]] == [8, 16, 16, 32, 32, 48, 16]
    assert [n.sources for n in model.model.nodes] == [(-1,), (0,), (1,), (2,), (3,), (4, 2), (5,), (6, 3)]
    assert len(model.model[2].m) == 2
    mapped = build_model(changed(3, {"name": "deep", "module": "Conv", "args": [32, 3], "options": {"s": 2}}))
    assert [tuple(p.shape) for p in mapped.parameters()] == [tuple(p.shape) for p in model.parameters()]


def test_widths_and_repeats_scale():
    model = build_model({**TINY, "depth_multiple": 2.0, "width_multiple": 0.75, "max_channels": 16})
    assert [n.channels for n in model.model.nodes[:4]] == [8, 16, 16, 16]  # 8 * .75 rounds up to a multiple of 8
    assert len(model.model[2].m) == 4
    assert model.model[-1].m[0].out_channels == 2 * (3 + 5)


@pytest.mark.parametrize("row, entry, code, names", [
    (2, [-1, 1, "Cnv", [16]], "unknown-name", [r"model dict row 2 \(Cnv\)", "'Conv'"]),
    (2, [-1, 1, "Conv", [16, 3, 1, None, 1, 1, True, 9, 9]], "bad-arguments", [r"\(Conv\)", r"\(16, .*Conv\(c2"]),
    (2, [-1, 1, "C3", ["wide"]], "bad-value", [r"row 2 \(C3\)", "c2", "65,536", "'wide'"]),
    (2, [-1, 1, "Conv", [16, 3, 1, None, 1, "nn.Silu("]], "bad-row", [r"row 2 \(Conv\)", r"'nn.Silu\('"]),
    (2, [-1, 1, "Conv", [16, 3, 1, None, 1, "__import__('os').getcwd()"]], "bad-row", [r"row 2 \(Conv\): activation"]),
    (2, [-1, 0, "Conv", [16]], "bad-row", [r"row 2 \(Conv\): repeats", "not 0"]),
    (2, [-1, 1, "Conv"], "bad-row", [r"row 2:.*\[from, repeats, module, args\]"]),
    (2, [-1, 1, "Conv", 16], "bad-row", [r"row 2 \(Conv\): arguments"]),
    (2, [7, 1, "Conv", [16]], "bad-row", [r"row 2 \(Conv\): .*row 7.*row 2"]),
    (2, [-9, 1, "Conv", [16]], "bad-row", [r"row 2 \(Conv\): .*row -7"]),
    (2, [[0, 1], 1, "Conv", [16]], "bad-row", [r"row 2 \(Conv\)", "one map", "2"]),
    (5, [[-1, 3], 1, "Concat", [1]], "bad-row", [r"row 5 \(Concat\): .*strides 4 and 8"]),
    (5, [[-1, 2], 1, "Shortcut", [0]], "bad-row", [r"row 5 \(Shortcut\): .*32 and 16 channels"]),
    (6, ["dep", 1, "Conv", [16]], "unknown-name", [r"row 6 \(Conv\)", "'dep'", "'deep'"]),
    (6, [-1, 1, "Conv", [16], "deep"], "name-taken", [r"row 6 \(Conv\)", "'deep'", "row 3"]),
    (6, {"modul": "Conv"}, "unknown-key", ["row 6", "'modul'", "'module'"]),
    (7, [["fine", "deep"], 1, "Detect", ["nc", [[1, 2, 3]]]], "bad-row", [r"row 7 \(Detect\): anchors"]),
    (7, [["fine"], 1, "Detect", ["nc", "anchors"]], "bad-row", [r"row 7 \(Detect\): 2 lists of anchors for 1"]),
    (7, ["deep", 1, "Conv", [16]], "no-head", [r"row 7 \(Conv\)", "Detect"]),
])
def test_a_wrong_row_is_told_by_number_module_and_cause(row, entry, code, names):
    with refused(code, *names):
        build_model(changed(row, entry))


@pytest.mark.parametrize("options, code, names", [
    ({"box_loss": "sciou"}, "unknown-name", ["box_loss 'sciou'", "ciou"]),
    ({"assign": "ota"}, "unknown-name", ["assign 'ota'", "tal, stal, rfla", "this head has no anchors"]),
    ({"assign": "rfl"}, "unknown-name", ["assign 'rfl'", "did you mean 'rfla'"]),
    ({"gains": {"boks": 1}}, "unknown-name", ["boks", "box, cls, dfl"]),
    ({"foo": 1}, "bad-arguments", ["foo=1", "Detect"]),
    ({"neck": "ass"}, "unknown-name", ["'ass'", "pan, assn, ssfpn", "did you mean 'assn'"]),
    ({"neck": {"type": "assn", "gait": 1}}, "bad-arguments", [r"neck assn \(ASSN\)", "gait=1"]),
    ({"neck": {"type": "assn", "gate": "both"}}, "bad-row", [r"neck assn \(ASSN\)", "gate 'both'", "spatial"]),
    ({"neck": {"type": "assn", "levels": [0, 3]}}, "bad-value", [r"levels \[0, 3\]", "0 to 2"]),
    ({"names": ["cat"]}, "wrong-count", ["1 class names for 2 classes"])])
def test_wrong_option_of_head_neck_or_names(options, code, names):
    with refused(code, *names):
        build_model("yolov8n", 2, **options)


def test_unknown_name_and_class_count():
    with pytest.raises(UserError, match="yolov8q: no such model; did you mean"):
        build_model("yolov8q")
    with pytest.raises(UserError, match="0 classes"):
        build_model("yolov8n", 0)


def test_activation_of_a_file_reaches_every_unit_and_no_other_model():
    leaky = build_model({**TINY, "activation": "nn.LeakyReLU(0.1)"})
    assert {type(m) for m in leaky.modules() if "activation" in type(m).__module__} == {torch.nn.LeakyReLU}
    assert {type(m) for m in build_model(TINY).modules() if "activation" in type(m).__module__} == {torch.nn.SiLU}


def test_wrong_activation_of_a_file_is_told():
    with pytest.raises(UserError, match="model dict: activation 'Silo' is not one of SiLU"):
        build_model({**TINY, "activation": "Silo"})


def test_base_and_neck_compose_from_a_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("base: yolov8n\nneck: assn\n")
    assert sum(p.numel() for p in build_model(path).parameters()) == 3_270_392
    path.write_text("base: yolov8n\nneck: {type: assn, levels: [0, 2], gate: spatial, channels: 32, merge: concat}\n")
    model = build_model(path, 3)
    assert model.model[-2].elan.cv1.conv.weight.shape == (32, 64 + 32, 1, 1)
    assert model.head.cv2[0][0].conv.in_channels == 128
    path.write_text("base: yolov8n\nnek: assn\n")
    with pytest.raises(UserError, match="mine.yaml: unknown key 'nek'; did you mean 'neck'"):
        build_model(path)


def test_words_and_replaced_rows(tmp_path):
    base = copy.deepcopy(TINY)
    base["backbone"][2] = [-1, 2, "block", ["wide"], "middle"]
    base["aliases"] = {"block": "C3", "wide": 16}
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base))
    path = tmp_path / "mine.yaml"
    path.write_text("base: base.yaml\nwords: {wide: 24}\nreplace: {fine: [Bottleneck, [8, False], {e: 1.0}]}\n")
    nodes = build_model(path).model.nodes
    assert [(n.module, n.channels) for n in (nodes[2], nodes[6])] == [("C3", 24), ("Bottleneck", 8)]
    for text, message in (
            ("replace: {find: [Conv, [8]]}", "base.yaml: no row is named 'find' to replace; did you mean 'fine'"),
            ("replace: {fine: Conv}", "replace fine: expected .module, args., found 'Conv'"),
            ("replace: [fine]", "`replace` must be `key: value` lines"),
            ("words: {block: C33}", r"row 2 \(block\): unknown module; did you mean 'C3'")):
        path.write_text(f"base: base.yaml\n{text}\n")
        with pytest.raises(UserError, match=message):
            build_model(path)


def test_necks_stand_where_they_were_published():
    with torch.device("meta"):
        sources = {name: build_model(name).model.nodes[-1].sources for name in
                   ("yolov7-w6", "yolov7-w6-assn", "yolov7-w6-ssfpn", "yolov7-e6-ssfpn")}
        scale_axis = build_model("yolor-p6-ssfpn").model[-2].factors
    changed_level = {name: [i for i, (a, b) in enumerate(zip(s, sources["yolov7-w6"])) if a != b]
                     for name, s in sources.items() if name.startswith("yolov7-w6")}
    assert changed_level == {"yolov7-w6": [], "yolov7-w6-assn": [0], "yolov7-w6-ssfpn": [4]}
    assert sources["yolov7-e6-ssfpn"][0] == max(sources["yolov7-e6-ssfpn"])
    assert scale_axis == [1, 8, 4, 2]


def test_a_neck_of_a_model_with_auxiliary_heads_reads_the_lead_levels_by_default():
    config = {k: v for k, v in resolve("yolov7-w6").items() if k != "necks"}
    with torch.device("meta"):
        model = build_model(config, neck="assn")
    assert model.model.nodes[-2].sources == tuple(build_sources(model)[:4])


def build_sources(model) -> list[int]:
    """Rows that the head of a model reads without its neck."""
    with torch.device("meta"):
        return list(build_model({**model.config, "neck": None}).model.nodes[-1].sources)


def test_fusing_takes_off_auxiliary_heads_and_the_rows_that_only_they_read():
    with torch.device("meta"):
        model = build_model("yolov7-w6")
        whole = sum(p.numel() for p in model.parameters())
        keys = set(model.fuse().state_dict())
    assert len(model.model.nodes[-1].sources) == 4
    assert whole - sum(p.numel() for p in model.parameters()) > 82_312_436 - 70_426_236  # of the deploy form
    aux = [n.index for n in model.model.nodes if n.name in ("a3", "a4", "a5", "a6")]
    assert len(aux) == 4
    assert not any(k.startswith(f"model.{i}.") for k in keys for i in aux)


@pytest.mark.parametrize("options, message", [
    ({"balance": [1.0, 1.0]}, "has not one weight for each of 4 levels"),
    ({"neck": {"type": "assn", "levels": [0, 9]}}, "must be two or more of 0 to 7")])
def test_wrong_options_of_a_model_with_auxiliary_heads(options, message):
    with pytest.raises(UserError, match=message), torch.device("meta"):
        build_model("yolov7-w6", **options)


def test_auxiliary_levels_must_repeat_the_leads():
    rows = copy.deepcopy(TINY)
    rows["head"][-1] = [["fine", "deep", "deep", "fine"], 1, "IAuxDetect", ["nc", "anchors"]]
    with pytest.raises(UserError, match="inputs have strides 4, 8, 8, 4; 2 maps of each are read"):
        build_model(rows)


@pytest.mark.parametrize("name, gate", [("yolov7-assn", False), ("yolov8n-assn", True)])
def test_each_base_brings_its_published_form_of_the_neck(name, gate):
    with torch.device("meta"):
        neck = build_model(name).model[-2]
    assert neck.gate.keeps_channel_gate is gate
    assert (neck.gate.spatial.conv[0].bias is None) is gate


def test_neck_argument_wins_over_the_name_and_pan_takes_it_off():
    with torch.device("meta"):
        assert build_model("yolov8n-assn", neck="ssfpn").model.nodes[-2].module == "SSFPN"
        assert len(build_model("yolov8n-assn", neck="pan").model) == len(build_model("yolov8n-pan").model) == 23


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_count_is_the_published_one(name):
    with torch.device("meta"):
        model = build_model(name)
    assert sum(p.numel() for p in model.parameters()) == PUBLISHED[name][0]


@pytest.mark.parametrize("name", PUBLISHED_VOC)
def test_parameter_count_of_the_ssd_family_is_the_published_one(name):
    with torch.device("meta"):
        model = build_model(name, VOC_CLASSES)
    assert sum(p.numel() for p in model.parameters()) == PUBLISHED_VOC[name]


def test_parameter_count_of_assd_with_coco_classes():
    with torch.device("meta"):
        assert sum(p.numel() for p in build_model("assd513", 80).parameters()) == 84_690_740


ZOO = ["yolov3", "yolov3-spp", "yolov3-tiny", "yolov4-csp", "yolov4-p5", "yolor-csp", "yolor-csp-x", "yolor-p6",
       "yolor-w6", "yolov7-tiny", "yolov7", "yolov7x", "yolov7-w6", "yolov7-e6", "yolov7-d6", "yolov7-e6e",
       *(form.format(size) for form in ("yolov5{}", "yolov5{}6", "yolov8{}", "yolov8{}-p2", "yolov8{}-p6")
         for size in "nsmlx")]


# published with 91 classes, and counted so in tests/golden/test_salience_detr.py
OF_91_CLASSES = {"salience-detr-r50", "scale-focused-detr-r50", "scale-focused-detr-r50-8level"}


def test_the_zoo_is_complete_and_every_member_has_a_published_count():
    assert set(ZOO) <= set(known_models())
    assert set(ZOO) <= set(PUBLISHED)
    unpublished = {name for name in known_models() if name not in {**PUBLISHED, **PUBLISHED_VOC}}
    assert unpublished == {"yolov7-decoupled", "ssd300-r18", "assd300-r18", "retinanet-r18", "retinanet-r50",
                           "retinanet-r50-att", "salience-detr-r18", "salience-detr-tiny", *OF_91_CLASSES,
                           *(f"yolov5{s}-{form}" for s in "nsmlx" for form in ("s2d", "spd"))}


@pytest.mark.parametrize("name, recipe, assign", [
    ("yolov3-spp", "yolov3", "anchor"), ("yolov4-csp", "yolov4", "anchor"), ("yolov5s6", "yolov5", "anchor"),
    ("yolor-p6", "yolor", "anchor"), ("yolov7-tiny", "yolov7-tiny", "ota"), ("yolov7-e6e", "yolov7-p6", "ota"),
    ("yolov8n-p2", "yolov8", "tal"), ("yolov7-decoupled", "yolov8", "tal")])
def test_each_family_learns_as_published(name, recipe, assign):
    with torch.device("meta"):
        model = build_model(name)
    assert (model.config["recipe"], model.head.loss_config.assign) == (recipe, assign)
    assert (CFG_ROOT / "train" / f"{recipe}.yaml").is_file()
    assert model.head.scale_gains({"box": 1.0}, 640)["box"] in (1.0, 0.75)
    if hasattr(model.head, "gain_rule"):
        assert model.head.gain_rule == ("yolov4" if recipe in ("yolov4", "yolor") else "yolov5")


def test_objectness_of_four_levels_is_balanced_as_each_code_base_does():
    with torch.device("meta"):
        for name in ("yolor-p6", "yolov4-p6"):
            assert build_model(name).head.loss_config.balance == [4.0, 1.0, 0.4, 0.1]
        assert build_model("yolov7-w6").head.loss_config.balance is None  # the loss's own: 4, 1, 0.25, 0.06


def test_assignments_can_be_exchanged():
    with torch.device("meta"):
        assert build_model("yolov5s", assign="ota").head.loss_config.assign == "ota"
        assert build_model("yolov7-w6", assign="anchor").head.loss_config.assign == "anchor"
        for model in ("yolov3-tiny", "yolov5s", "yolov7-w6", "yolov8n"):
            assert build_model(model, assign="rfla").head.assigner == "rfla"
        assert build_model("yolov8n", assign="stal").head.assigner == "stal"


@pytest.mark.parametrize("name", ["tal", "stal"])
def test_an_assigner_of_points_is_refused_by_a_head_with_anchors(name):
    with refused("unknown-name", f"assign '{name}'", "anchor, ota, rfla", "this head has anchors"):
        build_model("yolov5n", assign=name)


def conv(width: int, kernel: int, stride: int = 1, source: int = -1) -> list:
    """A row as YOLOv7-tiny writes it: the activation sixth, as text."""
    return [source, 1, "Conv", [width, kernel, stride, None, 1, "nn.LeakyReLU(0.1)"]]


def tiny_elan(hidden: int, out: int) -> list:
    return [conv(hidden, 1), conv(hidden, 1, source=-2), conv(hidden, 3), conv(hidden, 3),
            [[-1, -2, -3, -4], 1, "Concat", [1]], conv(out, 1)]


def classic_yolov7_tiny() -> dict:
    """YOLOv7-tiny as its authors number it: 78 rows, one per layer."""
    mp, up, cat = [-1, 1, "MP", []], [-1, 1, "nn.Upsample", ["None", 2, "nearest"]], [[-1, -2], 1, "Concat", [1]]
    backbone = [conv(32, 3, 2), conv(64, 3, 2), *tiny_elan(32, 64), mp, *tiny_elan(64, 128), mp,
                *tiny_elan(128, 256), mp, *tiny_elan(256, 512)]
    head = [conv(256, 1), conv(256, 1, source=-2), [-1, 1, "SP", [5]], [-2, 1, "SP", [9]], [-3, 1, "SP", [13]],
            [[-1, -2, -3, -4], 1, "Concat", [1]], conv(256, 1), [[-1, -7], 1, "Concat", [1]], conv(256, 1),
            conv(128, 1), up, conv(128, 1, source=21), cat, *tiny_elan(64, 128),
            conv(64, 1), up, conv(64, 1, source=14), cat, *tiny_elan(32, 64),
            conv(128, 3, 2), [[-1, 47], 1, "Concat", [1]], *tiny_elan(64, 128),
            conv(256, 3, 2), [[-1, 37], 1, "Concat", [1]], *tiny_elan(128, 256),
            conv(128, 3, source=57), conv(256, 3, source=65), conv(512, 3, source=73),
            [[74, 75, 76], 1, "IDetect", ["nc", "anchors"]]]
    anchors = [[10, 13, 16, 30, 33, 23], [30, 61, 62, 45, 59, 119], [116, 90, 156, 198, 373, 326]]
    return {"nc": 80, "depth_multiple": 1.0, "width_multiple": 1.0, "anchors": anchors, "backbone": backbone,
            "head": head}


CLASSIC_YOLOV5S = """
# parameters
nc: 80  # number of classes
depth_multiple: 0.33
width_multiple: 0.50
anchors:
  - [10,13, 16,30, 33,23]  # P3/8
  - [30,61, 62,45, 59,119]  # P4/16
  - [116,90, 156,198, 373,326]  # P5/32
backbone:
  [[-1, 1, Conv, [64, 6, 2, 2]], [-1, 1, Conv, [128, 3, 2]], [-1, 3, C3, [128]], [-1, 1, Conv, [256, 3, 2]],
   [-1, 6, C3, [256]], [-1, 1, Conv, [512, 3, 2]], [-1, 9, C3, [512]], [-1, 1, Conv, [1024, 3, 2]],
   [-1, 3, C3, [1024]], [-1, 1, SPPF, [1024, 5]]]
head:
  [[-1, 1, Conv, [512, 1, 1]], [-1, 1, nn.Upsample, [None, 2, 'nearest']], [[-1, 6], 1, Concat, [1]],
   [-1, 3, C3, [512, False]], [-1, 1, Conv, [256, 1, 1]], [-1, 1, nn.Upsample, [None, 2, 'nearest']],
   [[-1, 4], 1, Concat, [1]], [-1, 3, C3, [256, False]], [-1, 1, Conv, [256, 3, 2]], [[-1, 14], 1, Concat, [1]],
   [-1, 3, C3, [512, False]], [-1, 1, Conv, [512, 3, 2]], [[-1, 10], 1, Concat, [1]], [-1, 3, C3, [1024, False]],
   [[17, 20, 23], 1, Detect, [nc, anchors]]]
"""

CLASSIC_YOLOV8 = """
nc: 80
scales: # [depth, width, max_channels]
  n: [0.33, 0.25, 1024]
  s: [0.33, 0.50, 1024]
backbone:
  [[-1, 1, Conv, [64, 3, 2]], [-1, 1, Conv, [128, 3, 2]], [-1, 3, C2f, [128, True]], [-1, 1, Conv, [256, 3, 2]],
   [-1, 6, C2f, [256, True]], [-1, 1, Conv, [512, 3, 2]], [-1, 6, C2f, [512, True]], [-1, 1, Conv, [1024, 3, 2]],
   [-1, 3, C2f, [1024, True]], [-1, 1, SPPF, [1024, 5]]]
head:
  [[-1, 1, nn.Upsample, [None, 2, "nearest"]], [[-1, 6], 1, Concat, [1]], [-1, 3, C2f, [512]],
   [-1, 1, nn.Upsample, [None, 2, "nearest"]], [[-1, 4], 1, Concat, [1]], [-1, 3, C2f, [256]],
   [-1, 1, Conv, [256, 3, 2]], [[-1, 12], 1, Concat, [1]], [-1, 3, C2f, [512]],
   [-1, 1, Conv, [512, 3, 2]], [[-1, 9], 1, Concat, [1]], [-1, 3, C2f, [1024]], [[15, 18, 21], 1, Detect, [nc]]]
"""


@pytest.mark.parametrize("name, text, ours", [
    ("theirs.yaml", CLASSIC_YOLOV5S, "yolov5s"), ("theirs.yaml", yaml.safe_dump(classic_yolov7_tiny()), "yolov7-tiny"),
    ("yolov8.yaml", CLASSIC_YOLOV8, "yolov8n")])
def test_unmodified_file_from_elsewhere_builds(tmp_path, name, text, ours):
    (tmp_path / name).write_text(text)
    with torch.device("meta"):
        theirs, own = build_model(tmp_path / name), build_model(ours)
    assert [p.shape for p in theirs.parameters()] == [p.shape for p in own.parameters()]
    assert theirs.strides == own.strides


@pytest.mark.parametrize("config, recipe", [(TINY, "yolov5"), (classic_yolov7_tiny(), "yolov7"),
                                            (yaml.safe_load(CLASSIC_YOLOV8), "yolov8"), ("yolov7x-assn", "yolov7")])
def test_recipe_of_a_file_that_names_none_is_the_heads(config, recipe):
    assert resolve(config)["recipe"] == recipe


def test_scale_letter_in_the_path_of_a_family_file(tmp_path):
    (tmp_path / "yolov8.yaml").write_text(CLASSIC_YOLOV8)
    with torch.device("meta"):
        count = sum(p.numel() for p in build_model(tmp_path / "yolov8s.yaml").parameters())
    assert count == PUBLISHED["yolov8s"][0]


@pytest.mark.parametrize("fixture, text", [("yolov5s", CLASSIC_YOLOV5S), ("yolov8n", CLASSIC_YOLOV8)])
def test_classic_file_gives_the_originals_names(golden, tmp_path, fixture, text):
    meta, _ = golden(fixture)
    model = build_model(yaml.safe_load(text))
    theirs = [key for key, *_ in meta["state_dict"] if not key.endswith(".anchors")]
    assert list(model.state_dict()) == theirs


def test_a_layer_of_ones_own_is_one_decorated_class():
    @register("TestOnlyScale", width="c2")
    class Halve(torch.nn.Module):
        stride = 2

        def __init__(self, c1: int, c2: int, bias: bool = True) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(c1, c2, 3, 2, 1, bias=bias)
            self.out_channels = c2

        def forward(self, x):
            return self.conv(x)

    model = build_model({**changed(1, [-1, 1, "TestOnlyScale", [16, False]]), "width_multiple": 2.0})
    assert model.model[1].conv.weight.shape == (32, 16, 3, 3)
    assert model.strides == [4, 8]


def test_a_row_deeper_than_the_head_says_which_sizes_fit():
    """Sizes are rounded to the head's strides, 4 and 8 here."""
    rows = [*TINY["backbone"], [-1, 1, "Conv", [16, 3, 2]], [-1, 1, "Conv", [16, 3, 2]]]
    head = [["deep", *TINY["head"][0][1:]], *TINY["head"][1:]]
    model = build_model({**TINY, "backbone": rows, "head": head}, 3).eval()
    assert max(model.strides) == 8 and model(torch.zeros(1, 3, 64, 96)).image_size == (64, 96)
    with pytest.raises(UserError, match="multiples of 32, so images of 64 x 72 pixels do not fit"):
        model(torch.zeros(1, 3, 64, 72))
