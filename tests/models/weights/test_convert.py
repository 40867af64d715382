"""python -m models.convert: an original's file becomes one of ours."""

import subprocess
import sys

import pytest
import torch

from models import build_model, convert, load_model
from tests.models.weights.original_files import V8, numbered, original, write
from tests.running import ROOT
from utils.checkpoint import is_ours, load_checkpoint
from utils.errors import UserError


def run(*words):
    convert.main(convert.build_parser().parse_args([str(word) for word in words]))


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """A YOLOv8n of three classes as Ultralytics writes it."""
    yaml = numbered("yolov8", 3, scale="n")
    ours = build_model(yaml, 3)
    model, classes = original(ours.state_dict(), yaml, V8, names={0: "a", 1: "b", 2: "c"},
                              stride=torch.tensor([8.0, 16.0, 32.0]))
    return write(tmp_path_factory.mktemp("theirs") / "best.pt", model.half(), classes)


def test_as_a_user_runs_it(theirs, tmp_path):
    run = subprocess.run([sys.executable, "-m", "models.convert", theirs, tmp_path / "new.pt"], cwd=ROOT, text=True,
                         capture_output=True)
    assert run.returncode == 0, run.stderr
    assert "3 classes, strides 8, 16, 32; 354 tensors transferred" in run.stdout
    content = load_checkpoint(tmp_path / "new.pt")
    assert content["names"] == ["a", "b", "c"] and content["model"]["model.0.conv.weight"].dtype == torch.float32
    images = torch.rand(1, 3, 64, 64)
    first, second = load_model(theirs), load_model(tmp_path / "new.pt")
    for a, b in zip(first.decode(first(images)), second.decode(second(images)), strict=True):
        assert torch.equal(a, b)


def test_a_bare_state_dict_by_name(tmp_path, capsys):
    torch.save(build_model("yolov5n", 2).state_dict(), tmp_path / "old.pth")
    run(tmp_path / "old.pth", tmp_path / "new.pt", "--cfg", "yolov5n")
    assert "2 classes" in capsys.readouterr().out and is_ours(tmp_path / "new.pt")


PLUGIN = """
from torch import nn
from models.registry import register

@register("OwnScale")
class OwnScale(nn.Module):
    def __init__(self, c1):
        super().__init__()
        self.out_channels, self.conv = c1, nn.Conv2d(c1, c1, 1)

    def forward(self, x):
        return self.conv(x)
"""


def test_a_layer_of_the_users_own(tmp_path):
    rows = numbered("yolov8", 2, scale="n")
    rows["backbone"][9] = [-1, 1, "nn.Conv2d", [1024]]
    state = {k.replace("model.9.", "model.9.conv."): v for k, v in build_model(rows, 2).state_dict().items()}
    rows["backbone"][9] = [-1, 1, "OwnScale", []]
    old = write(tmp_path / "old.pt", *original(state, rows, V8))
    with pytest.raises(UserError, match=r"row 9 \(OwnScale\): unknown module"):
        run(old, tmp_path / "new.pt")
    (tmp_path / "own.py").write_text(PLUGIN)
    words = [sys.executable, "-m", "models.convert", old, tmp_path / "new.pt", "--plugin", tmp_path / "own.py"]
    done = subprocess.run(words, cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    key = "model.9.conv.weight"
    assert torch.equal(load_checkpoint(tmp_path / "new.pt")["model"][key], state[key])


def test_wrong_inputs_are_told_in_a_sentence(theirs, tmp_path):
    with pytest.raises(UserError, match="no such file"):
        run(tmp_path / "absent.pt", tmp_path / "new.pt")
    with pytest.raises(UserError, match=r"name the new file \.pt"):
        run(theirs, tmp_path / "new.onnx")
    with pytest.raises(UserError, match="is the original itself"):
        run(theirs, theirs)
    with pytest.raises(UserError, match="could not be written"):
        run(theirs, theirs / "new.pt")  # below a file, where no folder can be made
    with pytest.raises(UserError, match="absent: no such model"):
        run(theirs, tmp_path / "new.pt", "--cfg", "absent.yaml")
    run(theirs, tmp_path / "new.pt")
    with pytest.raises(UserError, match="already"):
        run(tmp_path / "new.pt", tmp_path / "newer.pt")
    with pytest.raises(UserError, match="leave cfg out"):
        load_model(tmp_path / "new.pt", cfg="yolov8n")
