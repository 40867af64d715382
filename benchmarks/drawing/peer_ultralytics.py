"""Ultralytics' picture of detections, by its public `Results.plot`: run by the peer's python, never imported here.

    PEER_PYTHON benchmarks/drawing/peer_ultralytics.py CONFIG.json

Answers to the number of a picture with the CPU seconds of one call, and writes it as PNG.
"""

import json
import sys
import time
from pathlib import Path

import cv2
import torch
import ultralytics
from ultralytics.engine.results import Results


def serve(path: str) -> None:
    """Answer until the input ends."""
    config = json.loads(Path(path).read_text(encoding="utf-8"))
    settings = ultralytics.settings
    settings.update({name: False for name, value in settings.items() if value is True})  # no telemetry
    names = dict(enumerate(config["names"]))
    print(json.dumps({"program": f"ultralytics {ultralytics.__version__}"}), flush=True)
    for line in sys.stdin:
        item = config["pictures"][int(line)]
        result = Results(cv2.imread(item["image"]), item["image"], names, torch.tensor(item["rows"]).reshape(-1, 6))
        began = time.process_time()
        picture = result.plot()
        seconds = time.process_time() - began
        cv2.imwrite(item["peer"], picture)
        print(json.dumps({"seconds": seconds}), flush=True)


if __name__ == "__main__":
    serve(sys.argv[1])
