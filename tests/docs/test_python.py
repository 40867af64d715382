"""The Python examples of docs/python.md and of README's section run as they are written, on tiny weights."""

import re

import pytest
import torch

import assn
from tests.running import ROOT
from tests.tiny import picture, tiny_model, video
from utils.checkpoint import save_checkpoint

NAMES = ["person", "car", "bus"]


def blocks(file: str, section: str = "") -> list[str]:
    """The Python blocks of a document, from a title or bold word on to the next one."""
    text = (ROOT / file).read_text(encoding="utf-8")
    if section:
        text = re.split(r"\n## |\n\*\*", text.split(section, 1)[1], maxsplit=1)[0]
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with what the examples name."""
    monkeypatch.chdir(tmp_path)
    weights = tmp_path / "runs/train/exp/weights/best.pt"
    weights.parent.mkdir(parents=True)
    model = tiny_model(names=NAMES)
    save_checkpoint({"config": {**model.config, "trained": {"imgsz": [128]}}, "names": NAMES,
                     "model": model.state_dict()}, weights)
    picture(tmp_path / "images" / "street.jpg")
    video(tmp_path / "clip.mp4")
    return tmp_path


def run(texts: list[str], names: dict) -> dict:
    for text in texts:
        exec(compile(text.replace("path/to/assn", str(ROOT)), "example", "exec"), names)
    return names


@pytest.mark.filterwarnings("ignore:hint")
def test_the_page_about_python(place, capsys):
    pytest.importorskip("pandas")
    pytest.importorskip("trackers")
    texts = blocks("docs/python.md")
    assert len(texts) == 7
    names = run(texts, {})
    assert "images/street.jpg" in capsys.readouterr().out and (place / "out" / "street.png").is_file()
    assert names["loss"].item() > 0 and len(names["rows"]) == len(names["table"]) > 0
    assert names["small"].names == NAMES and isinstance(names["model"], assn.Model)


def test_readme(place):
    """The section may use a batch of images with their targets."""
    from assn.utils.structures import Targets

    targets = [Targets(torch.tensor([[10.0, 10.0, 60.0, 50.0]]), torch.tensor([1]))]
    texts = blocks("README.md", "**In Python.**")
    assert texts
    run(texts, {"images": torch.rand(1, 3, 128, 128), "targets": targets})
