"""The causes of a miss, in the order in which they are asked for, and the kinds of a false alarm.

What was seen above the threshold decides first, then what lies below it: the cause is what stands between the object
and a hit at that threshold.
"""

from dataclasses import dataclass

import numpy as np

IOU, NEAR = 0.5, 0.1  # TIDE's (Bolya et al. 2020, section 2.2): overlap of a hit, and least overlap of a near miss
FLOOR = 1e-4  # a score that is not above it says nothing: dense heads give some score to every box
SIDES = (8, 16, 32, 96)  # pixels: limits of the size bins; a bin holds its lower limit
BINS = ("< 8", "8 - 16", "16 - 32", "32 - 96", "≥ 96")


@dataclass(frozen=True)
class Word:
    """A cause or a kind. key: in files; title: on the page; meaning: when it holds; advice: what it suggests."""

    key: str
    title: str
    meaning: str
    advice: str = ""


CAUSES = (
    Word("unseen", "image not evaluated", "nobody looked at the image",
         "Evaluate the whole split before reading anything into the other numbers."),
    Word("nms", "lost in NMS", f"a box of its class above the threshold with IoU ≥ {IOU} was suppressed by another",
         "Objects stand closer than NMS allows, or a worse box outscores the better one. Try a higher --iou-thres; a "
         "loss that ties the score to the overlap, or a model without NMS, goes further."),
    Word("limit", "beyond the number kept",
         f"a box of its class above the threshold with IoU ≥ {IOU} was cut by the limit of detections",
         "Too many boxes elsewhere rank before it. Give a higher --max-det; a protocol counts so many per image and "
         "class in any case (COCO 100), and only one that counts more sees the rest."),
    Word("taken", "one box for two objects",
         f"the only boxes of its class with IoU ≥ {IOU} were counted for a neighbour",
         "The model answers a group by one box. Look at the pictures: often the labels are the point (an object "
         "annotated twice); otherwise finer strides or larger inputs part neighbours."),
    Word("class", "another class",
         f"a box above the threshold with IoU ≥ {IOU} has another class; or no box of its class has IoU ≥ {NEAR}",
         "Placed well, named wrongly: see the confusion matrix. Check the labels of the two classes first, then "
         "their balance (--rare-classes); small objects of like classes may hold too few pixels to be told apart."),
    Word("localisation", "badly placed",
         f"a box of its class above the threshold reaches {NEAR} ≤ IoU < {IOU}, or none at any score reaches more",
         "For small objects a shift of one or two pixels does this. Check how tight the labels are; a finer stride "
         "(a P2 level), a larger input, or a box loss made for small boxes (--box-loss) may help."),
    Word("score", "score too low", f"a box of its class with IoU ≥ {IOU} exists, at or below the threshold",
         "Seen, but not believed. A lower threshold finds some at the price of false alarms; more examples of this "
         "size (--oversample-small, --tile) or longer training may raise the scores."),
    Word("both", "another class, badly placed", f"only boxes of other classes, with {NEAR} ≤ IoU < {IOU}",
         "Too little is seen for class or place: treat it as no prediction."),
    Word("none", "no prediction near it", f"no box that overlaps it most has IoU ≥ {NEAR}, at any score",
         "The model does not respond there. Is the object visible at the input size (see the sides as the model sees "
         "them)? More pixels (--imgsz, slices), a finer stride, more examples like it; or the label is wrong."),
)
KINDS = (
    Word("duplicate", "duplicate", f"IoU ≥ {IOU} with an object of its class that a better box has found"),
    Word("class", "another class", f"IoU ≥ {IOU} with an object of another class"),
    Word("localisation", "badly placed", f"{NEAR} ≤ IoU < {IOU} with an object of its class"),
    Word("both", "another class, badly placed", f"{NEAR} ≤ IoU < {IOU} with an object of another class only"),
    Word("background", "background", f"IoU < {NEAR} with every object"),
)
CAUSE = {word.key: k for k, word in enumerate(CAUSES)}
KIND = {word.key: k for k, word in enumerate(KINDS)}


def bins_of(sides: np.ndarray) -> np.ndarray:
    """(M,) sides in pixels -> positions in `BINS`."""
    return np.searchsorted(SIDES, sides, side="right")
