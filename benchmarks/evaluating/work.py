"""One evaluation by one engine in a process of its own: `python -m benchmarks.evaluating.work ENGINE FILE`.

FILE is an .npz of columns that `benchmarks.evaluation` wrote. Prints one line of JSON: seconds, peak memory, numbers.
"""

import contextlib
import importlib
import io
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Columns = dict[str, np.ndarray]


def contents(columns: Columns) -> tuple[list[dict], list[dict]]:
    """Images and categories as COCO has them."""
    return ([{"id": int(k)} for k in range(columns["n"])],
            [{"id": int(k), "name": str(k)} for k in range(columns["k"])])


def with_dicts(coco: str, evaluation: str) -> Callable[[Columns], Callable[[], list[float]]]:
    """pycocotools, or another with its interface, as `module:class`: annotations are dicts, made before the clock runs.
    """
    def prepare(columns: Columns) -> Callable[[], list[float]]:
        make_truth, make_evaluation = (getattr(importlib.import_module(module), name) for module, name in
                                       (word.split(":") for word in (coco, evaluation)))
        images, categories = contents(columns)
        c = {name: columns[name].tolist() for name in columns if columns[name].ndim}
        objects = [{"id": i, "image_id": image, "category_id": label, "bbox": box, "area": area, "iscrowd": crowd}
                   for i, (image, label, box, area, crowd) in enumerate(
                       zip(c["image"], c["label"], c["boxes"], c["areas"], c["crowd"], strict=True), 1)]
        rows = [{"image_id": image, "category_id": label, "bbox": box, "score": score} for image, label, box, score in
                zip(c["found_images"], c["found_labels"], c["found_boxes"], c["found_scores"], strict=True)]

        def run() -> list[float]:
            truth = make_truth()
            truth.dataset = {"images": images, "categories": categories, "annotations": objects}
            truth.createIndex()
            judged = make_evaluation(truth, truth.loadRes(rows), "bbox")
            judged.evaluate()
            judged.accumulate()
            judged.summarize()
            return [float(value) for value in judged.stats[:12]]
        return run
    return prepare


def hotcoco(columns: Columns) -> Callable[[], list[float]]:
    """The bare library, from the same columns that our adapter is given."""
    from hotcoco import COCO, COCOeval

    images, categories = contents(columns)

    def run() -> list[float]:
        truth = COCO.from_arrays(images, categories, columns["image"], columns["label"], columns["boxes"],
                                 ids=np.arange(1, len(columns["image"]) + 1), area=columns["areas"],
                                 iscrowd=columns["crowd"].astype(np.int64))
        rows = np.column_stack((columns["found_images"], columns["found_boxes"], columns["found_scores"],
                                columns["found_labels"]))
        judged = COCOeval(truth, truth.load_res(rows), "bbox")
        judged.run()
        return [float(value) for value in judged.stats]
    return run


def given(columns: Columns) -> tuple[Any, Any]:
    """The truth and the detections in our types."""
    from engine.evaluation.metrics.found import Found
    from utils.truth import Truth

    n, k = int(columns["n"]), int(columns["k"])
    truth = Truth(list(range(n)), list(range(k)), columns["image"], columns["label"], columns["boxes"],
                  columns["areas"], columns["crowd"])
    return truth, Found(np.ones(n, bool), *(columns[f"found_{name}"] for name in ("images", "labels", "boxes",
                                                                                   "scores")))


def adapter(columns: Columns) -> Callable[[], list[float]]:
    """Our adapter, up to the twelve numbers."""
    from engine.evaluation.metrics.engine import open_engine
    from engine.evaluation.metrics.judge import stats_of
    from engine.evaluation.metrics.protocol import COCO

    truth, found = given(columns)
    return lambda: list(stats_of(open_engine(truth, found).accumulate(COCO), COCO).values())


def judged(columns: Columns) -> Callable[[], list[float]]:
    """All that val.py computes: the twelve numbers of all and of each class, P, R and F1 over confidence."""
    from engine.evaluation.metrics.judge import judge

    truth, found = given(columns)
    return lambda: list(judge(truth, found).values.values())


ENGINES: dict[str, Callable[[Columns], Callable[[], list[float]]]] = {
    "pycocotools": with_dicts("pycocotools.coco:COCO", "pycocotools.cocoeval:COCOeval"),
    "faster-coco-eval": with_dicts("faster_coco_eval:COCO", "faster_coco_eval:COCOeval_faster"),
    "hotcoco": hotcoco, "adapter": adapter, "judge": judged}


def peak() -> float:
    """MB that this process has held at most; of the program itself, where `getrusage` counts its parent's too."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def main(name: str, path: str) -> None:
    """Run one engine once and print what it took."""
    with np.load(path) as file:
        columns = dict(file)
    run = ENGINES[name](columns)
    began, cpu = time.perf_counter(), time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        numbers = run()
    print(json.dumps({"wall": time.perf_counter() - began, "cpu": time.process_time() - cpu, "peak": peak(),
                      "numbers": numbers, "torch": "torch" in sys.modules}))


if __name__ == "__main__":
    main(*sys.argv[1:])
