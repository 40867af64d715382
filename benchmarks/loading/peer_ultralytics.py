"""Ultralytics' own training loader, built through its public API: run by the peer's python, never imported here.

    PEER_PYTHON benchmarks/loading/peer_ultralytics.py CONFIG.json
"""

import json
import sys
from pathlib import Path

import clock
import cv2
import torch
import ultralytics
from ultralytics.cfg import get_cfg
from ultralytics.data import build_dataloader, build_yolo_dataset


def main(path: str) -> None:
    """Serve rounds."""
    config = json.loads(Path(path).read_text(encoding="utf-8"))
    settings = ultralytics.settings
    settings.update({name: False for name, value in settings.items() if value is True})  # no telemetry
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    cfg = get_cfg(overrides={
        "imgsz": config["imgsz"], "batch": config["batch"], "cache": config["cache"] or False, "mosaic": 1.0,
        "workers": config["workers"], "device": "cpu", "task": "detect"})
    classes = {"names": dict(enumerate(config["names"])), "nc": len(config["names"]), "channels": 3}
    dataset = build_yolo_dataset(cfg, config["images"], config["batch"], classes, mode="train", rect=False, stride=32)
    loader = build_dataloader(dataset, config["batch"], config["workers"], shuffle=True, rank=-1, pin_memory=False,
                              device="cpu")
    clock.serve(loader, lambda batch: len(batch["img"]), program=f"ultralytics {ultralytics.__version__}",
                torch=torch.__version__, opencv=cv2.__version__)


if __name__ == "__main__":
    main(sys.argv[1])
