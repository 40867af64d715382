"""A layer of a user's own in one file, and the table of modules in the documentation."""

import argparse
import sys
from pathlib import Path

import pytest
import torch

from models import build_model, registry
from models.plugins import add_plugin_flag, load_plugin, load_plugins
from models.reference import layer_table, updated
from utils.errors import UserError

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


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    """What a test registers, and the modules that it loads, go with it."""
    monkeypatch.setattr(registry, "_LAYERS", {name: list(kinds) for name, kinds in registry._LAYERS.items()})
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("plugin_"):
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


def test_example_of_the_documentation_works(tmp_path):
    text = DOCUMENT.read_text(encoding="utf-8")
    example = text.partition("```python\n")[2].partition("```")[0]
    assert load_plugin(write(tmp_path / "my_layers.py", example)) == ["Halve"]
    assert build_model(model_file("Halve")).strides == [4]


def test_files_of_one_name_in_two_folders(tmp_path):
    for folder, name in (("a", "Halve"), ("b", "Other")):
        (tmp_path / folder).mkdir()
        assert load_plugin(write(tmp_path / folder / "layers.py", LAYER.replace('"Halve"', f'"{name}"'))) == [name]


@pytest.mark.parametrize("text, message", [
    ("x = 1\n", "registers no layer; decorate a class with @register"),
    ("x = 1\nclass Halve(\n", "line 2: '\\(' was never closed"),
    ("x = 1\n\ny = z\n", "line 3: NameError: name 'z' is not defined"),
    ("import no_such_thing_here\n", "line 1: ModuleNotFoundError: No module named 'no_such_thing_here'"),
    (LAYER.replace('"Halve"', '"Conv"'), "the name 'Conv' is taken"),
    (LAYER.replace("class Halve(nn.Module)", "class Halve"), "Halve, registered as 'Halve', must be an nn.Module")])
def test_a_file_that_is_wrong_is_told_with_its_line(tmp_path, text, message):
    path = write(tmp_path / "my_layers.py", text)
    with pytest.raises(UserError, match=f"--plugin .*my_layers.py: {message}"):
        load_plugin(path)


def test_a_file_that_failed_may_be_loaded_once_it_is_right(tmp_path):
    path = write(tmp_path / "my_layers.py", "oops\n")
    with pytest.raises(UserError):
        load_plugin(path)
    write(path, LAYER)
    assert load_plugin(path) == ["Halve"]


def test_a_file_that_is_not_there_or_no_python(tmp_path):
    with pytest.raises(UserError, match="--plugin .*none.py: no such file"):
        load_plugin(tmp_path / "none.py")
    with pytest.raises(UserError, match=r"--plugin .*best.pt: not a Python file"):
        load_plugin(write(tmp_path / "best.pt", "x"))


def test_flag(tmp_path):
    parser = argparse.ArgumentParser()
    add_plugin_flag(parser)
    assert load_plugins(parser.parse_args([]).plugin) == []
    one, two = write(tmp_path / "one.py", LAYER), write(tmp_path / "two.py", LAYER.replace('"Halve"', '"Other"'))
    assert load_plugins(parser.parse_args(["--plugin", str(one), "--plugin", str(two)]).plugin) == ["Halve", "Other"]


def test_table_of_the_documentation_is_the_registrys(tmp_path):
    """Where it is not: `python -m models.reference --write docs/model_files.md`."""
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
