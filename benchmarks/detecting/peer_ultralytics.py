"""An untrained YOLOv8n of Ultralytics' that finds some boxes: run by the peer's python, never imported here.

    PEER_PYTHON benchmarks/detecting/peer_ultralytics.py PICTURES WEIGHTS

Random weights as they are answer with the same score everywhere. So convolutions keep the scale of what they see, batch
norms take their statistics from the pictures, and class scores are spread around a low mean.
"""

import sys
from pathlib import Path

import cv2
import numpy as np
import torch
import ultralytics
from torch import nn

SIDE, IMAGES, SPREAD, MEAN = 640, 16, 0.25, -6.0


def make(pictures: str, weights: str) -> None:
    """Write the weights, then print the version of the peer."""
    torch.manual_seed(0)
    detector = ultralytics.YOLO("yolov8n.yaml")
    model = detector.model.float()
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.weight.requires_grad:
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            module.reset_running_stats()
    paths = sorted(Path(pictures).iterdir())
    images = [cv2.resize(cv2.imread(str(p)), (SIDE, SIDE)) for p in paths[::max(len(paths) // IMAGES, 1)]]
    batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
    model.train()
    with torch.no_grad():
        for part in batch.split(4):
            model(part)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.03
    for branch in model.eval().model[-1].cv3:
        branch[-1].weight.data *= SPREAD
        branch[-1].bias.data.fill_(MEAN)
    detector.save(weights)
    print(ultralytics.__version__)


if __name__ == "__main__":
    make(*sys.argv[1:])
