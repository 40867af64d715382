"""Ultralytics' own trainer, driven through its public API: run by the peer's python, never imported by this project.

    PEER_PYTHON benchmarks/steps/peer_ultralytics.py CONFIG.json

The trainer runs as it is, its loop, optimiser, EMA, mixed precision and loss included. Its documented methods for
data sets and loaders are overridden where the batch is resident, and validation and saving are left out; the callback
that it calls at the start of every batch is where rounds are timed (`rounds.py`).
"""

import json
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import ultralytics
from rounds import Rounds
from torch.utils.data import DataLoader, Dataset
from ultralytics import settings
from ultralytics.engine import trainer as engine
from ultralytics.models.yolo.detect import DetectionTrainer


class Numbers(Dataset):
    """As many items as the epoch has images; the batch is resident, so an item is only its number."""

    def __init__(self, config: dict) -> None:
        self.count = config["batch"] * config["batches"]
        self.labels = [{"cls": np.zeros((1, 1))}] * self.count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> int:
        return number


def resident_loader(config: dict, device: torch.device) -> DataLoader:
    """A loader that gives the same batch, on the device already, every time; in the form of the peer's own batches."""
    with np.load(config["batch_file"]) as stored:
        arrays = {name: torch.from_numpy(stored[name]) for name in ("images", "classes", "boxes", "rows")}
    shape = [(config["imgsz"],) * 2] * config["batch"]
    batch = {"img": arrays["images"].to(device), "cls": arrays["classes"].float()[:, None],
             "bboxes": arrays["boxes"].float(), "batch_idx": arrays["rows"].float(),
             "im_file": [""] * config["batch"], "ori_shape": shape, "resized_shape": shape}
    loader = DataLoader(Numbers(config), batch_size=config["batch"], collate_fn=lambda _: dict(batch))
    loader.reset = lambda: None
    return loader


class Trainer(DetectionTrainer):
    """Trains without an end: no validation, no files."""

    config: dict = {}

    def validate(self):
        return {}, 0.0

    def save_model(self):
        return True

    def final_eval(self):
        pass

    def plot_metrics(self):
        pass


class ResidentTrainer(Trainer):
    """Without a data set: every batch is the resident one."""

    def get_dataset(self):
        names = dict(enumerate(self.config["names"]))
        self.data = {"train": "", "val": "", "nc": len(names), "names": names, "channels": 3}
        return self.data

    def get_dataloader(self, *args, **kwargs):
        return resident_loader(self.config, self.device)

    def get_validator(self):
        return SimpleNamespace(metrics=SimpleNamespace(keys=[]))


def facts_of(trainer: DetectionTrainer) -> dict:
    """What the trainer made of its settings by the time that it starts."""
    weight = next(p for p in trainer.model.parameters() if p.dim() == 4 and min(p.shape[1:3]) > 1)
    last = weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
    precision = "fp32"
    if trainer.amp:
        precision = str(torch.get_autocast_dtype(trainer.device.type)).replace("torch.", "")
    return {"program": f"ultralytics {ultralytics.__version__}", "precision": precision,
            "layout": "channels_last" if last else "contiguous", "optimizer": type(trainer.optimizer).__name__,
            "parameters": sum(p.numel() for p in trainer.model.parameters())}


def begin(trainer: DetectionTrainer, config: dict, rounds: Rounds) -> None:
    """Called when the first epoch is about to begin: by now the trainer has chosen its number of threads itself."""
    if config["force_threads"]:
        torch.set_num_threads(config["threads"])
    rounds.ready(**facts_of(trainer))


def main(path: str) -> None:
    config = json.loads(Path(path).read_text(encoding="utf-8"))
    settings.update({name: False for name, value in settings.items() if value is True})  # no telemetry, no loggers
    torch.set_num_threads(config["threads"])
    device = torch.device(config["device"])
    if device.type == "cuda":  # without a network the check of mixed precision cannot fetch the weights that it needs
        engine.check_amp = lambda model: True
    rounds = Rounds(device)
    kind = ResidentTrainer if config["source"] == "resident" else Trainer
    kind.config = config
    with tempfile.TemporaryDirectory() as folder:
        trainer = kind(overrides={
            "model": f"{config['model']}.yaml", "data": config["data"] or "resident.yaml", "imgsz": config["imgsz"],
            "batch": config["batch"], "epochs": config["epochs"], "device": config["device"].replace("cuda:", ""),
            "workers": config["workers"], "optimizer": config["optimizer"], "close_mosaic": 0, "pretrained": False,
            "plots": False, "val": False, "save": False, "verbose": False, "project": folder})
        trainer.add_callback("on_train_start", lambda it: begin(it, config, rounds))
        trainer.add_callback("on_train_batch_start", lambda it: rounds.before_step())
        trainer.train()
    raise SystemExit("the training ended before it was told to")


if __name__ == "__main__":
    main(sys.argv[1])
