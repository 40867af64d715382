"""Ultralytics' own training loader, built through its public API: run by the peer's python, never imported here.

    PEER_PYTHON benchmarks/loading/peer_ultralytics.py CONFIG.json
"""

import json
import sys
from importlib import import_module
from pathlib import Path

import cv2
import torch


def main(path: str) -> None:
    """Serve rounds. What only the peer's python has is imported here, so that importing this file needs none of it."""
    clock, peer, data = (import_module(name) for name in ("clock", "ultralytics", "ultralytics.data"))
    config = json.loads(Path(path).read_text(encoding="utf-8"))
    peer.settings.update({name: False for name, value in peer.settings.items() if value is True})  # no telemetry
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    cfg = import_module("ultralytics.cfg").get_cfg(overrides={
        "imgsz": config["imgsz"], "batch": config["batch"], "cache": config["cache"] or False, "mosaic": 1.0,
        "workers": config["workers"], "device": "cpu", "task": "detect"})
    classes = {"names": dict(enumerate(config["names"])), "nc": len(config["names"]), "channels": 3}
    dataset = data.build_yolo_dataset(cfg, config["images"], config["batch"], classes, mode="train", rect=False,
                                      stride=32)
    loader = data.build_dataloader(dataset, config["batch"], config["workers"], shuffle=True, rank=-1,
                                   pin_memory=False, device="cpu")
    clock.serve(loader, lambda batch: len(batch["img"]), program=f"ultralytics {peer.__version__}",
                torch=torch.__version__, opencv=cv2.__version__)


if __name__ == "__main__":
    main(sys.argv[1])
