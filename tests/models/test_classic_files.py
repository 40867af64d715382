"""Unmodified model files from elsewhere: those of ASSN and ssFPN against the originals' numbers, others against known
parameter counts."""

import re

import pytest
import torch
import yaml

from models import build_model
from tests.golden_rule import filled_state_dict, rule_input
from tests.models import classic
from utils.errors import UserError

FORKS = {"yolov7-assn": classic.assn_yolov7, "yolov7-ss": classic.ss_yolov7,
         "yolov8n-assn": classic.yolov8_assn, "yolov4-p5-ss": classic.yolov4_p5_sequence}


@pytest.fixture(params=FORKS, scope="module")
def case(request, golden, tmp_path_factory):
    """(meta, arrays, model of the fork's file with the original's weights, carried by name) of one fixture."""
    meta, arrays = golden(request.param)
    path = tmp_path_factory.mktemp("elsewhere") / "theirs.yaml"
    path.write_text(FORKS[request.param]())
    model = build_model(path)
    missing, unexpected = model.load_state_dict(filled_state_dict(meta), strict=False)
    assert not unexpected
    assert set(missing) <= set(meta["kept"])  # constants that a model file implies
    return meta, arrays, model.eval()


def test_names_and_shapes_are_the_originals(case):
    meta, _, model = case
    theirs = [(key, tuple(shape)) for key, shape, _ in meta["state_dict"] if "anchor" not in key]
    assert [(key, tuple(value.shape)) for key, value in model.state_dict().items()] == theirs
    assert sum(p.numel() for p in model.parameters()) == meta["n_params"]
    assert model.strides == meta["strides"]


@torch.no_grad()
def test_output_is_the_originals_before_and_after_fusing(case):
    meta, arrays, model = case
    for when in ("before", "after"):
        raw = model(rule_input(meta["input_shape"]))
        for ours, theirs in (("lead", "raw"), ("box", "raw_box"), ("cls", "raw_cls")):
            for i, level in enumerate(raw.maps.get(ours, ())):
                noise = meta["noise_f32_vs_f64_max_abs"][theirs][i]
                torch.testing.assert_close(level, torch.from_numpy(arrays[f"{theirs}_{i}"]), rtol=0,
                                           atol=max(1e-4, 20 * noise), msg=lambda m, w=when: f"{w} fusing: {m}")
        model.fuse()
    assert not any("batch3d" in key for key in model.state_dict())


def build(tmp_path, text: str, name: str = "theirs.yaml"):
    """The model of such a file, without weights; the scale's letter is in `name`, not in the file's."""
    (tmp_path / re.sub(r"yolov8[nsm]", "yolov8", name)).write_text(text)
    with torch.device("meta"):
        return build_model(tmp_path / name)


def parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name, text, published", [
    ("yolov8n-assn.yaml", classic.yolov8_assn(), 3_270_392),
    ("yolov8s-assn.yaml", classic.yolov8_assn(), 11_617_100),
    ("yolov8m-assn.yaml", classic.yolov8_assn(), 26_877_920),
    ("yolov8n-ghost.yaml", classic.yolov8_ghost(), 1_865_316),
    ("yolov8s-ghost.yaml", classic.yolov8_ghost(), 5_960_072),
    ("yolov8m-ghost.yaml", classic.yolov8_ghost(), 10_336_312)])
def test_parameters_are_as_many_as_published(tmp_path, name, text, published):
    assert parameters(build(tmp_path, text, name)) == published


def test_conv3d_without_the_channels_read_is_the_same(tmp_path):
    assert parameters(build(tmp_path, classic.ss_yolov7([256, 3, 1]))) == 39_852_698


@pytest.mark.parametrize("width, text", [
    (0.25, classic.yolov5("C3Ghost")), (0.25, classic.yolov5(deep="C3TR")),
    (0.25, classic.yolov5(deep="C3SPP", head_block="C3x")), (0.25, classic.yolov5("BottleneckCSP")),
    (0.25, classic.resnet_csp("ResCSPC")), (0.5, classic.resnet_csp("ResXCSPC")), (0.25, classic.yolov6())],
    ids=["ghost", "transformer", "spp-x", "csp", "r50-csp", "x50-csp", "yolov6"])
def test_other_published_layouts_learn_and_fuse(width, text):
    """Narrow copies: every parameter gets a gradient, and fusing keeps the output."""
    torch.manual_seed(0)
    model = build_model({**yaml.safe_load(text), "width_multiple": width, "depth_multiple": 0.33, "scales": None}, 3)
    images = torch.rand(2, 3, 64, 64)
    raw = model(images)
    sum(level.square().mean() for maps in raw.maps.values() for level in maps).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters() if p.requires_grad)
    assert model.strides == [8, 16, 32]
    with torch.no_grad():
        before = model.eval().decode(model(images))
        after = model.fuse().decode(model(images))
    torch.testing.assert_close(after[0], before[0], rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(after[1], before[1], rtol=0, atol=1e-4)


@pytest.mark.parametrize("module, near", [("C3STR", "C3TR"), ("TransformerLayer", "TransformerBlock"),
                                          ("C3GhostV2", "C3Ghost"), ("nn.ConvTransposed2d", "nn.ConvTranspose2d")])
def test_a_module_that_is_not_supported_is_told_with_its_row_and_the_nearest(tmp_path, module, near):
    with pytest.raises(UserError, match=rf"theirs.yaml row 8 \({module}\): unknown module; did you mean .*'{near}'"):
        build(tmp_path, classic.yolov5(deep=module))


def test_a_module_that_is_like_no_other_is_told_too(tmp_path):
    with pytest.raises(UserError, match=r"theirs.yaml row 8 \(Zq\): unknown module 'Zq'"):
        build(tmp_path, classic.yolov5(deep="Zq"))
