"""YOLOR's released files, whose layers are numbered by a Darknet cfg: the network is told from shapes, and the numbers
are the original's."""

import pytest
import torch

from models import build_model, convert, load_model
from models.weights.darknet import COCO, _keys, translate
from models.weights.originals import Original
from tests.golden_rule import filled_state_dict, rule_input
from tests.models.weights.test_originals import check
from utils.boxes import xyxy_to_cxcywh
from utils.errors import UserError


def darknet_form(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The state of one of our models as such a file holds it; its own pooling order is kept."""
    state, entries, section, unit = model.model.state_dict(), {}, -1, None
    for key in _keys(model.model):
        owner, _, last = key.rpartition(".")
        new = owner.removesuffix(".conv").removesuffix(".bn")
        section, unit = (section + (1 if new == unit else 2), new) if new != unit else (section, unit)
        if last == "implicit":
            entries[f"module_list.{section}.implicit"] = state[key]
        else:
            entries[f"module_list.{section}.{'BatchNorm2d' if owner.endswith('.bn') else 'Conv2d'}.{last}"] = state[key]
            if last == "running_var":
                entries[f"module_list.{section}.BatchNorm2d.num_batches_tracked"] = torch.tensor(7)
    return entries


@pytest.mark.parametrize("fixture", ["yolor-csp-darknet", "yolor-p6-darknet"])
@torch.no_grad()
def test_a_released_file_gives_the_original_numbers(golden, tmp_path, fixture):
    meta, arrays = golden(fixture)
    torch.save({"epoch": -1, "model": filled_state_dict(meta), "optimizer": None}, tmp_path / "yolor.pt")
    loaded = load_model(tmp_path / "yolor.pt")
    assert loaded.strides == meta["strides"] and sum(p.numel() for p in loaded.parameters()) == meta["n_params"]
    assert loaded.names == list(COCO) and loaded.names[79] == "toothbrush"
    assert {(m.eps, m.momentum) for m in loaded.modules() if isinstance(m, torch.nn.BatchNorm2d)} == {(1e-4, 0.03)}
    assert loaded.head.anchors.tolist() == meta["anchors_px"]
    check(loaded, meta, arrays)
    if fixture == "yolor-csp-darknet":  # on its larger input the windows of the pooling differ
        boxes, scores = loaded.decode(loaded(rule_input(meta["rect_input_shape"])))
        wanted, noise = torch.from_numpy(arrays["rect_pred_rows8"]), meta["noise_f32_vs_f64_max_abs"]
        torch.testing.assert_close(xyxy_to_cxcywh(boxes[:, ::8]), wanted[..., :4], rtol=1e-4,
                                   atol=20 * noise["pred_box_px"])
        torch.testing.assert_close(scores[:, ::8], wanted[..., 4:5] * wanted[..., 5:], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["yolov4-csp", "yolor-w6-csp", "yolor-csp-x-darknet"])
def test_the_network_is_told_from_shapes(tmp_path, name):
    """Without the numbers, which are too many to write for every network."""
    with torch.device("meta"):
        state = darknet_form(build_model(name, 7))
    original, config = translate(Original(tmp_path / "a.pt", "model", state))
    assert config["nc"] == 7 and config["names"][6] == "class6"
    with torch.device("meta"):
        wanted = build_model(name, 7).state_dict()
    assert {k: v.shape for k, v in original.state.items()} == {k: v.shape for k, v in wanted.items()}


@torch.no_grad()
def test_a_network_of_the_users_own_is_named(tmp_path, capsys):
    cfg = tmp_path / "own.yaml"
    cfg.write_text("base: yolor-p6-csp\nwidth_multiple: 0.125\ndepth_multiple: 0.33\nnc: 2\nnames: [cat, dog]\n")
    ours = build_model(str(cfg), 2)
    for module in ours.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eps = 1e-4
            module.running_var.uniform_(0.01, 0.02)
    path, images = tmp_path / "own.pt", torch.rand(1, 3, 256, 256)
    torch.save({"model": dict(reversed(darknet_form(ours).items()))}, path)
    with pytest.raises(UserError, match=r"own\.pt: its 441 tensors of Darknet layers .* none of yolor-csp, yolov4-csp"):
        load_model(path)
    convert.main(convert.build_parser().parse_args([str(path), str(tmp_path / "new.pt"), "--cfg", str(cfg)]))
    loaded = load_model(tmp_path / "new.pt")
    assert loaded.names == ["cat", "dog"]
    pool = ours.model[12].cv5.conv.weight  # the file holds it as it is, so its windows count from the other end
    pool.copy_(torch.cat(pool.chunk(4, 1)[::-1], 1))
    for a, b in zip(ours.eval().decode(ours(images)), loaded.decode(loaded(images)), strict=True):
        torch.testing.assert_close(a, b)
    (tmp_path / "own.names").write_text("chat\n\nchien\n")
    words = [str(path), str(tmp_path / "named.pt"), "--cfg", str(cfg), "--names", str(tmp_path / "own.names")]
    convert.main(convert.build_parser().parse_args(words))
    assert load_model(tmp_path / "named.pt").names == ["chat", "chien"]
    (tmp_path / "own.names").write_text("chat\n")
    with pytest.raises(UserError, match=r"own\.names: 1 names for 2 classes"):
        convert.main(convert.build_parser().parse_args(words))
    with pytest.raises(UserError, match=r"ends in an anchor head"):
        load_model(path, cfg="yolov8n")


def test_a_key_that_is_no_layer_is_named(tmp_path):
    torch.save({"model": {"module_list.0.Conv2d.weight": torch.zeros(2), "head.x": torch.zeros(1)}}, tmp_path / "a.pt")
    with pytest.raises(UserError, match=r"a\.pt: holds 'head\.x' among Darknet layers"):
        load_model(tmp_path / "a.pt")
