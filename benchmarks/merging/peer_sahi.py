"""SAHI's and ensemble-boxes' merging by their public functions: run by the peer's python, never imported here.

    PEER_PYTHON benchmarks/merging/peer_sahi.py CONFIG.json

Answers to a line `METHOD METRIC` with the CPU seconds of one call, and where its boxes lie (a .npz of the work folder).
"""

import importlib.util
import json
import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
from sahi.postprocess import combine
from sahi.postprocess.backends import resolve_backend
from sahi.prediction import ObjectPrediction

INDICES = {"nms": combine.batched_nms, "greedy": combine.batched_greedy_nmm, "nmm": combine.batched_nmm}
OBJECTS = {"nms": combine.NMSPostprocess, "greedy": combine.GreedyNMMPostprocess, "nmm": combine.NMMPostprocess}
THRESHOLD = 0.5


def serve(path: str) -> None:
    """Answer until the input ends."""
    warnings.simplefilter("ignore")
    config = json.loads(Path(path).read_text(encoding="utf-8"))
    scene = np.load(config["scene"])
    boxes, scores, labels = scene["boxes"], scene["scores"], scene["labels"]
    rows = np.concatenate((boxes, scores[:, None], labels[:, None]), 1).astype(np.float32)
    for method in INDICES:  # compiles where numba does
        INDICES[method](rows[:2000], "IOS", THRESHOLD)
    print(json.dumps({"sahi": version("sahi"), "backend": resolve_backend(),
                      "ensemble_boxes": bool(importlib.util.find_spec("ensemble_boxes"))}), flush=True)
    for line in sys.stdin:
        method, metric = line.split()
        answer = fused(boxes, scores, labels) if method == "wbf" else merged(rows, method, metric)
        file = Path(config["scene"]).with_name(f"peer-{method}-{metric}.npy")
        np.save(file, answer.pop("boxes"))
        print(json.dumps({**answer, "file": str(file)}), flush=True)


def merged(rows: np.ndarray, method: str, metric: str) -> dict:
    """Seconds of the functions that find which boxes to keep, of the whole with SAHI's objects, and its boxes."""
    began = time.process_time()
    INDICES[method](rows, metric.upper(), THRESHOLD)
    seconds = time.process_time() - began
    objects = [ObjectPrediction(bbox=row[:4], score=row[4], category_id=int(row[5]), category_name=str(int(row[5])))
               for row in rows.astype(np.float64).tolist()]
    process = OBJECTS[method](THRESHOLD, metric.upper(), class_agnostic=False)
    began = time.process_time()
    found = process(objects)
    whole = time.process_time() - began
    return {"seconds": seconds, "whole": whole,
            "boxes": np.array([[*o.bbox.to_xyxy(), o.score.value, o.category.id] for o in found])}


def fused(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> dict:
    """The same of weighted boxes fusion, all boxes of one model."""
    from ensemble_boxes import weighted_boxes_fusion

    extent = float(boxes.max())
    began = time.process_time()
    fused, confidence, classes = weighted_boxes_fusion([boxes / extent], [scores], [labels], iou_thr=0.55)
    seconds = time.process_time() - began
    return {"seconds": seconds, "whole": seconds,
            "boxes": np.concatenate((fused * extent, confidence[:, None], classes[:, None]), 1)}


if __name__ == "__main__":
    serve(sys.argv[1])
