"""docs/detect.md: its commands run as they are written, on tiny weights, and every flag is on the page."""

import re
import shlex

import pytest

import detect
from tests.running import ROOT
from tests.tiny import NAMES, picture, tiny_model, video
from utils.checkpoint import save_checkpoint

TEXT = (ROOT / "docs/detect.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^python detect.py (.*)$", TEXT, re.MULTILINE)
NEEDS_MORE = ("rtsp://", "cameras.streams", "my.yaml")  # tested with a server, and with a data set, elsewhere


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with what the commands name."""
    root = tmp_path_factory.mktemp("page")
    model = tiny_model()
    for path in (root / "best.pt", root / "runs/train/exp/weights/best.pt"):
        path.parent.mkdir(parents=True, exist_ok=True)
        save_checkpoint({"config": {**model.config, "trained": {"imgsz": [64]}}, "names": NAMES,
                         "model": model.state_dict()}, path)
    picture(root / "street.jpg")
    picture(root / "images" / "one.jpg")
    video(root / "clip.mp4")
    return root


@pytest.mark.parametrize("command", [c for c in COMMANDS if not any(word in c for word in NEEDS_MORE)])
def test_commands_run(place, monkeypatch, command):
    monkeypatch.chdir(place)
    if "--track" in command:
        pytest.importorskip("trackers")
    folder = detect.main(detect.build_parser().parse_args([*shlex.split(command), "--device", "cpu"]))
    assert folder.is_dir() and any(folder.iterdir())


def test_every_flag_is_on_the_page():
    flags = [action.option_strings[0] for action in detect.build_parser()._actions if action.help != "==SUPPRESS=="]
    assert [flag for flag in flags if flag.startswith("--") and flag not in TEXT] == []
