"""The twelve metrics by pycocotools itself, the reference of the evaluator."""

import contextlib
import copy
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

STAT_NAMES = ("AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L", "AR1", "AR10", "AR100", "AR_S", "AR_M", "AR_L")


def pycocotools_stats(content: dict[str, Any], results: Sequence[dict[str, Any]]) -> dict[str, float]:
    """COCOeval's metrics of a COCO file and of result rows, as `COCO(file).loadRes(results)` would read them.

    content: as `json.load` gives it; pycocotools writes into its annotations. Raises ValueError with pycocotools' own
    message where it fails, which it may do by any exception.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            truth = COCO()
            truth.dataset = content
            truth.createIndex()
            if results:
                found = truth.loadRes(copy.deepcopy(list(results)))
            else:  # `loadRes` fails on an empty list
                found = COCO()
                found.dataset = {**content, "annotations": []}
                found.createIndex()
            evaluation = COCOeval(truth, found, "bbox")
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        except Exception as error:  # noqa: BLE001  it validates nothing that it reads
            raise ValueError(f"{type(error).__name__}: {error}"[:200]) from error
    return dict(zip(STAT_NAMES, np.asarray(evaluation.stats).tolist(), strict=True))
