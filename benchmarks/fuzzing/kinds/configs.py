"""Model files and training recipes."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from benchmarks.fuzzing.kind import Kind, read_facts, write_facts
from benchmarks.fuzzing.kinds.commands import run_inside
from benchmarks.fuzzing.kinds.tiny import FLAGS, tiny, write_place
from benchmarks.fuzzing.mutate import NUMBERS, pick
from benchmarks.fuzzing.yaml_text import as_yaml, spoil_yaml
from models import build_model
from utils.config import CFG_ROOT, read_yaml


class ModelYaml(Kind):
    """A model file with other rows, numbers, names and keys, as `python -m models` and `train.py` read it."""

    name, weight = "model-yaml", 3.0

    def make(self, rng: np.random.Generator, ground: Path, folder: Path) -> None:
        content = self.content(rng)
        whole = rng.random() < 0.1
        (folder / "model.yaml").write_bytes(as_yaml(content).encode() if whole else spoil_yaml(rng, content))
        (folder / "other.yaml").write_text(yaml.safe_dump({"base": pick(rng, ("model.yaml", "yolov5n", "other.yaml"))}))
        write_facts(folder, real=bool(rng.random() < 0.35), neck=pick(rng, (None, None, "assn", "ssfpn")))

    def content(self, rng: np.random.Generator) -> dict[str, Any]:
        chance = rng.random()
        if chance < 0.3:
            return {
                "base": pick(rng, ("yolov8n", "yolov5n", "yolov7-tiny", "other.yaml", "model.yaml")), "nc": 3,
                "neck": {"type": "assn", "levels": [0, 1, 2], "gate": "channel_spatial", "merge": "add"},
                "names": ["a", "b", "c"], "activation": "SiLU", "depth_multiple": 0.33, "replace": {},
            }
        content = tiny(anchors=chance < 0.6)
        content["names"] = ["person", "car", "lamp"]
        if rng.random() < 0.3:
            content["scales"] = {"n": [0.33, 0.25, 1024], "s": [0.33, 0.5, 1024]}
            content["scale"] = "n"
        for row in content["backbone"]:
            if rng.random() < 0.08:
                row[2] = pick(rng, MODULES)
            if rng.random() < 0.05:
                row[3].append(pick(rng, NUMBERS))
        return content

    def attempt(self, folder: Path) -> None:
        facts = read_facts(folder)
        run_inside("models", ["model.yaml", "--imgsz", "64", *(["--neck", facts["neck"]] if facts["neck"] else [])])
        if facts["real"]:
            model = build_model("model.yaml", 3).eval()
            if 64 % model.frame.multiple == 0:
                model.decode(model(torch.zeros(1, 3, 64, 64)))


MODULES = (
    "nn.Upsample", "nn.Conv2d", "Concat", "C3", "Bottleneck", "CBAM", "SPP", "Focus", "os.system", "Detect", "IDetect",
    "nn.BatchNorm2d", "ASSN", "SPPCSPC", "RepConv", "MP", "Shortcut", "eval", "__import__", "torch.nn.Linear",
    "nn.Module", "DWConv", "GhostConv", "Contract", "Expand", "nn.MaxPool2d", "nn.Identity", "SSFPN", "ELAN",
    "CrossConv",
)


class RecipeYaml(Kind):
    """A recipe as `--hyp` gives it to a whole training, if a small one."""

    name, weight, seconds = "recipe", 1.0, 20.0

    def ground(self, folder: Path) -> None:
        write_place(folder)

    def make(self, rng: np.random.Generator, ground: Path, folder: Path) -> None:
        shutil.copytree(ground, folder, dirs_exist_ok=True)
        name = pick(rng, ("yolov8", "yolov8", "yolov5", "yolov7", "demo"))
        content = read_yaml(CFG_ROOT / "train" / f"{name}.yaml")
        if rng.random() < 0.15:
            content["base"] = pick(rng, ("hyp.yaml", "yolov5", "yolov8.yaml"))
        numbers = [
            k for k, v in content.items() if type(v) in (int, float) and k not in ("epochs", "batch_size", "imgsz")
        ]
        if rng.random() < 0.6:
            for _ in range(int(rng.integers(4))):
                content[pick(rng, numbers)] = pick(rng, NUMBERS)
            (folder / "hyp.yaml").write_text(as_yaml(content), encoding="utf-8")
        else:
            (folder / "hyp.yaml").write_bytes(spoil_yaml(rng, content))
        write_facts(folder, cfg="anchors.yaml" if name in ("yolov5", "yolov7") else "tiny.yaml")

    def attempt(self, folder: Path) -> None:
        run_inside("train", [*FLAGS, "--cfg", read_facts(folder)["cfg"], "--hyp", "hyp.yaml"])
