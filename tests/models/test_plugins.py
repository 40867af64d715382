"""A layer of a user's own in one file, and the table of modules in the documentation."""

import argparse
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import train
from engine.training.config import TrainConfig
from engine.training.recipe import load_recipe
from engine.training.setup import start_model
from models import build_model, load_model, registry
from models.boxes import similarity
from models.catalogue import resolve
from models.module_table import layer_table, updated
from models.plugins import load_plugin, load_plugins
from tests.refusals import refused
from tests.scripts.trainings import parsed
from tests.tiny import tiny_data
from utils.errors import UserError
from utils.options import add_flag, plugin_option

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "model_files.md"
LAYER = '''\
from dataclasses import dataclass

import torch
from torch import nn

from models.registry import register


@dataclass
class Settings:
    bias: bool = True


@register("Halve", width="c2")
class Halve(nn.Module):
    """Half the size."""

    stride = 2

    def __init__(self, c1, c2, bias=Settings.bias):
        super().__init__()
        self.conv = nn.Conv2d(c1, c2, 3, 2, 1, bias=bias)
        self.out_channels = c2

    def forward(self, x):
        return self.conv(x)
'''

HEAD = '''\
"""An anchor-free head: at each cell class logits and the distances to four sides (after FCOS, Tian et al. 2019)."""

import torch
import torch.nn.functional as F
from torch import nn

from models.boxes.decoding import anchor_points, distances_to_boxes
from models.boxes.similarity import box_similarity
from models.heads import Head, RecipeOption, merge_gains
from models.registry import register


@register("PointDetect", multi_input=True)
class PointDetect(Head):
    """A point learns the smallest object that holds it."""

    gains = {"reg": 2.0, "score": 1.0}
    recipe = "points.yaml"  # beside this file
    recipe_options = {"border": RecipeOption("border", neutral=0.0, bounds=(0.0, 8.0))}

    def __init__(self, channels, nc=80, *, strides, gains=None, border=0.0):
        super().__init__()
        self.num_classes, self.strides, self.border = nc, list(strides), border
        self.gains = merge_gains(self.gains, gains)
        self.out = nn.ModuleList(nn.Conv2d(c, 4 + nc, 1) for c in channels)

    def forward(self, pyramid):
        return {"points": tuple(conv(x) for conv, x in zip(self.out, pyramid))}  # (B, 4+nc, h, w) per level

    def _predicted(self, raw):
        maps = raw.maps["points"]
        points, steps = anchor_points([m.shape[2:] for m in maps], self.strides, maps[0].device)
        values = torch.cat([m.flatten(2) for m in maps], 2).transpose(1, 2).float()  # (B, N, 4+nc)
        return distances_to_boxes(F.softplus(values[..., :4]) * steps, points), values[..., 4:], points

    def loss(self, raw, targets):
        boxes, logits, points = self._predicted(raw)
        truth = F.pad(targets.boxes, (0, 0, 0, 1))[:, None]  # (B, 1, M+1, 4); the last row is no object
        low, high = truth[..., :2] + self.border, truth[..., 2:] - self.border
        inside = ((points[:, None] > low) & (points[:, None] < high)).all(-1) & F.pad(targets.valid, (0, 1))[:, None]
        own = (truth[..., 2:] - truth[..., :2]).prod(-1).where(inside, torch.inf).argmin(-1)  # (B, N)
        found = inside.any(-1)
        similarity = box_similarity(boxes, truth[:, 0].gather(1, own[..., None].expand(-1, -1, 4)), "giou")
        label = F.one_hot(F.pad(targets.labels, (0, 1)).gather(1, own), self.num_classes) * found[..., None]
        terms = {"reg": ((1 - similarity) * found).sum(),
                 "score": F.binary_cross_entropy_with_logits(logits, label.float(), reduction="sum")}
        return {name: term * self.gains[name] * len(boxes) / found.sum().clamp(min=1) for name, term in terms.items()}

    def decode(self, raw):
        boxes, logits, _ = self._predicted(raw)
        return boxes, logits.sigmoid()
'''
RECIPE = "optimizer: AdamW\nlr0: 0.002\nwarmup_epochs: 0\nreg: 4.0\nborder: 0.5\nmosaic: 0.0\n"
NECK = '''\
from torch import nn

from models.registry import register


@register("Mine", multi_input=True, neck="mine")
class Mine(nn.Module):
    """The finest level, smoothed."""

    def __init__(self, widths, kernel=3, *, strides):
        super().__init__()
        self.conv = nn.Conv2d(widths[0], widths[0], kernel, padding=kernel // 2)
        self.out_channels = widths[0]

    def forward(self, pyramid):
        return pyramid[0] + self.conv(pyramid[0])
'''
LOSS = '''\
from models.boxes.similarity import register_kind


@register_kind("centre")
def centre(pair):
    """IoU less the squared distance of the centres."""
    return pair.iou - pair.centre_term
'''


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    """What a test registers, and the modules that it loads, go with it."""
    monkeypatch.setattr(registry, "_LAYERS", {name: list(kinds) for name, kinds in registry._LAYERS.items()})
    kinds = dict(similarity.KINDS)
    before = set(sys.modules)
    yield
    similarity.KINDS.clear()
    similarity.KINDS.update(kinds)
    for name in set(sys.modules) - before:
        if "_plugin_" in name:
            del sys.modules[name]


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def model_file(module: str) -> dict:
    return {"nc": 2, "width_multiple": 0.5, "backbone": [[-1, 1, "Conv", [16, 3, 2]], [-1, 1, module, [32, False]]],
            "head": [[[-1], 1, "Detect", ["nc"]]]}


def test_a_layer_from_a_file_is_one_like_ours(tmp_path):
    path = write(tmp_path / "my_layers.py", LAYER)
    with pytest.raises(UserError, match="unknown module"):
        build_model(model_file("Halve"))
    assert load_plugin(path) == ["Halve"]
    assert load_plugin(str(path)) == ["Halve"]  # again: not run twice
    model = build_model(model_file("Halve"))
    assert model.model[1].conv.weight.shape == (16, 8, 3, 3)
    assert model.strides == [4]
    assert model(torch.rand(1, 3, 32, 32)).maps["cls"][0].shape == (1, 2, 8, 8)
    assert len(registry.lookup("Halve")) == 1


def test_a_layer_that_does_not_say_what_it_gives_is_told_with_its_row(tmp_path):
    load_plugin(write(tmp_path / "my_layers.py", LAYER.replace("self.out_channels = c2", "self.given = c2")))
    with pytest.raises(UserError, match=r"row 1 \(Halve\): Halve must set out_channels"):
        build_model(model_file("Halve"))


@pytest.fixture
def points(tmp_path):
    """A head of the user's own with its recipe beside it, and a model file that puts it on YOLOv8."""
    write(tmp_path / "points.yaml", RECIPE)
    write(tmp_path / "mine.yaml", "base: yolov8n\nreplace: {detect: [PointDetect, [nc]]}\n")
    return write(tmp_path / "points.py", HEAD)


def test_a_head_brings_its_recipe_gains_and_options(points):
    assert load_plugin(points) == ["PointDetect"]
    cfg = str(points.with_name("mine.yaml"))
    config = TrainConfig(cfg=cfg, data="x.yaml", imgsz=(64,))
    model, _, recipe = start_model(config, ["a", "b"], lambda imgsz: np.ones((1, 2)))
    assert model.head.gains == {"reg": 4.0, "score": 1.0} and model.head.border == 0.5
    assert (recipe.optimizer, recipe.lr0, recipe.head) == ("AdamW", 0.002, {"border": 0.5})
    write(points.with_name("other.yaml"), "border: 9.0\n")
    with pytest.raises(UserError, match="border: 9 should be 0 to 8") as error:
        load_recipe(points.with_name("other.yaml"))
    assert error.value.code == "bad-value"


def test_a_head_of_the_users_own_trains_and_is_read_back(points, monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(points.parent / "cache"))
    tiny_data(points.parent, train=4, val=2)
    run = train.main(parsed(points.parent, "run", "--plugin", points, "--cfg", points.with_name("mine.yaml")))
    model = load_model(run / "weights" / "best.pt")
    boxes, scores = model.decode(model(torch.rand(1, 3, 64, 64)))
    assert type(model.head).__name__ == "PointDetect" and len(model.select(boxes, scores)) == 1
    assert "train/reg" in (run / "results.csv").read_text()


def test_a_neck_has_a_name_on_the_command_line(tmp_path):
    with pytest.raises(UserError, match="yolov8n-mine"):
        resolve("yolov8n-mine")
    assert load_plugin(write(tmp_path / "mine.py", NECK)) == ["Mine"]
    for config in (resolve("yolov8n-mine"), resolve("yolov8n", neck="mine"), resolve("yolov8n", neck="Mine")):
        assert any(type(layer).__name__ == "Mine" for layer in build_model(config).model)
    with pytest.raises(UserError, match="did you mean 'mine'") as error:
        build_model("yolov8n", neck="minee")
    assert error.value.code == "unknown-name"


def test_a_box_loss_is_a_choice_as_ours_are(tmp_path):
    path = write(tmp_path / "centre.py", LOSS)
    assert load_plugin(path) == load_plugin(path) == ["centre"]
    assert build_model("yolov8n", box_loss="centre").head.loss_config.box_loss == "centre"
    pair = torch.rand(2, 5, 4).cumsum(-1)
    assert torch.equal(similarity.box_similarity(*pair, "centre"), similarity.box_similarity(*pair, "diou"))
    with pytest.raises(UserError, match="did you mean 'centre'") as error:
        build_model("yolov8n", box_loss="center")
    assert error.value.code == "unknown-name"
    with pytest.raises(UserError, match="'ciou' is there already"):
        load_plugin(write(tmp_path / "again.py", LOSS.replace('"centre"', '"ciou"')))


def test_files_of_one_name_in_two_folders(tmp_path):
    for folder, name in (("a", "Halve"), ("b", "Other")):
        (tmp_path / folder).mkdir()
        assert load_plugin(write(tmp_path / folder / "layers.py", LAYER.replace('"Halve"', f'"{name}"'))) == [name]


@pytest.mark.parametrize("text, code, names", [
    ("x = 1\n", "not-a-plugin", ["@register"]),
    ("x = 1\nclass Halve(\n", "broken-plugin", ["line 2: '\\(' was never closed"]),
    ("x = 1\n\ny = z\n", "broken-plugin", ["line 3: NameError: name 'z' is not defined"]),
    ("import no_such_thing_here\n", "broken-plugin", ["line 1: ModuleNotFoundError: .*'no_such_thing_here'"]),
    (LAYER.replace('"Halve"', '"Conv"'), "name-taken", ["'Conv'", "aliases: {Conv: MyName}"]),
    (LAYER.replace("class Halve(nn.Module)", "class Halve"), "not-a-plugin", ["Halve", "nn.Module"])])
def test_a_file_that_is_wrong_is_told_with_its_line(tmp_path, text, code, names):
    path = write(tmp_path / "my_layers.py", text)
    with refused(code, r"--plugin .*my_layers\.py: ", *names):
        load_plugin(path)


@pytest.mark.parametrize("text", ["oops\n", LAYER + "\noops\n", LOSS + "\noops\n"])
def test_a_file_that_failed_may_be_loaded_once_it_is_right(tmp_path, text):
    path = write(tmp_path / "my_layers.py", text)
    with refused("broken-plugin", "oops"):
        load_plugin(path)
    write(path, text.replace("oops\n", "") or LAYER)
    assert load_plugin(path) == (["centre"] if "centre" in text else ["Halve"])


def test_a_file_that_is_not_there_or_no_python(tmp_path):
    with refused("missing-file", r"--plugin .*none\.py"):
        load_plugin(tmp_path / "none.py")
    with refused("not-a-plugin", r"--plugin .*best\.pt", r"\.py"):
        load_plugin(write(tmp_path / "best.pt", "x"))


def test_flag(tmp_path):
    parser = argparse.ArgumentParser()
    add_flag(parser, "plugin", plugin_option())
    assert load_plugins(parser.parse_args([]).plugin) == []
    one, two = write(tmp_path / "one.py", LAYER), write(tmp_path / "two.py", LAYER.replace('"Halve"', '"Other"'))
    assert load_plugins(parser.parse_args(["--plugin", str(one), "--plugin", str(two)]).plugin) == ["Halve", "Other"]


def test_table_of_the_documentation_is_the_registrys(tmp_path):
    """Where it is not: `python -m models.module_table --write docs/model_files.md`."""
    text = DOCUMENT.read_text(encoding="utf-8")
    assert updated(text) == text
    load_plugin(write(tmp_path / "my_layers.py", LAYER))
    assert "Halve" not in layer_table()  # a user's own layers are not ours to document
    with pytest.raises(UserError, match="no table of modules"):
        updated("# Model files\n")


def test_every_layer_says_what_it_is():
    lines = layer_table().splitlines()[2:]
    assert all(len(line.rsplit("|", 2)[1].strip()) > 10 for line in lines)
    assert all(f"`{name}`" in layer_table() for name in ("Conv", "CBAM", "C3TR", "nn.ConvTranspose2d", "Detect"))
