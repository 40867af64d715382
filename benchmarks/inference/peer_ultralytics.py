"""Ultralytics' own prediction of pictures in memory: run by the peer's python, never imported by this project.

    PEER_PYTHON benchmarks/inference/peer_ultralytics.py CONFIG.json

config: weights, or '' for an untrained YOLOv8n; pictures: .npy of (N, H, W, 3) uint8 BGR; imgsz, device, conf, iou.
Answers to a line `BATCH` with the milliseconds per image that it reports for its stages.
"""

import json
import sys
from pathlib import Path

import numpy as np
import ultralytics

STAGES = {"pre-process": "preprocess", "inference": "inference", "NMS": "postprocess"}


def serve(path: str) -> None:
    """Answer until the input ends."""
    config = json.loads(Path(path).read_text(encoding="utf-8"))
    model = ultralytics.YOLO(config["weights"] or "yolov8n.yaml")
    pictures = list(np.load(config["pictures"]))
    print(json.dumps({"version": ultralytics.__version__}), flush=True)
    for line in sys.stdin:
        batch = int(line)
        results = model.predict(pictures[:batch], imgsz=config["imgsz"], device=config["device"], conf=config["conf"],
                                iou=config["iou"], batch=batch, verbose=False)
        spent = {stage: sum(result.speed[word] for result in results) / len(results)
                 for stage, word in STAGES.items()}
        print(json.dumps(spent), flush=True)


if __name__ == "__main__":
    serve(sys.argv[1])
