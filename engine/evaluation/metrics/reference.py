"""The metrics by pycocotools itself, on COCO files as it reads them: the reference of every table.

pycocotools validates nothing that it reads and may fail with any exception.
"""

import contextlib
import copy
import io
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pycocotools.cocoeval import COCOeval

STAT_NAMES = ("AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L", "AR1", "AR10", "AR100", "AR_S", "AR_M", "AR_L")


def pycocotools_stats(content: dict[str, Any], results: Sequence[dict[str, Any]]) -> dict[str, float]:
    """COCOeval's twelve metrics of a COCO file and of result rows, as `COCO(file).loadRes(results)` would read them.

    content: as `json.load` gives it; pycocotools writes into its annotations. Raises ValueError with pycocotools' own
    message where it fails.
    """
    with silent():
        try:
            evaluation = coco_evaluation(content, results)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        except Exception as error:  # noqa: BLE001  it validates nothing that it reads
            raise ValueError(f"{type(error).__name__}: {error}"[:200]) from error
    return dict(zip(STAT_NAMES, np.asarray(evaluation.stats).tolist(), strict=True))


def coco_evaluation(content: dict[str, Any], results: Sequence[dict[str, Any]]) -> "COCOeval":
    """pycocotools' evaluation of boxes, of a COCO file and of result rows, before anything is computed."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with silent():
        truth = COCO()
        truth.dataset = content
        truth.createIndex()
        if results:
            found = truth.loadRes(copy.deepcopy(list(results)))
        else:  # `loadRes` fails on an empty list
            found = COCO()
            found.dataset = {**content, "annotations": []}
            found.createIndex()
        return COCOeval(truth, found, "bbox")


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Without pycocotools' progress on standard output."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield
