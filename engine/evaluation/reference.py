"""The twelve numbers by pycocotools itself: what the evaluator is compared with."""

import contextlib
import copy
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

NUMBERS = ("AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L", "AR1", "AR10", "AR100", "AR_S", "AR_M", "AR_L")


def by_pycocotools(content: dict[str, Any], results: Sequence[dict[str, Any]]) -> dict[str, float]:
    """What pycocotools makes of a COCO file and of result rows, as `COCO(file).loadRes(results)` would read them.

    content: as `json.load` gives it; pycocotools writes into its annotations. Where it fails on them, which it does by
    any exception, that is a ValueError with its words.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            truth = COCO()
            truth.dataset = content
            truth.createIndex()
            if results:
                found = truth.loadRes(copy.deepcopy(list(results)))
            else:  # which `loadRes` cannot take
                found = COCO()
                found.dataset = {**content, "annotations": []}
                found.createIndex()
            evaluation = COCOeval(truth, found, "bbox")
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        except Exception as error:  # noqa: BLE001  it checks nothing that it reads, so anything may be raised
            raise ValueError(f"{type(error).__name__}: {error}"[:200]) from error
    return dict(zip(NUMBERS, np.asarray(evaluation.stats).tolist(), strict=True))
