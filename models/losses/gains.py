"""Loss gains: what the published hyper-parameter files mean for another number of levels, classes or pixels."""

from collections.abc import Mapping

GAIN_RULES = ("yolov5", "yolov4")


def scale_gains(gains: Mapping[str, float], num_levels: int, num_classes: int, image_size: int,
                rule: str = "yolov5") -> dict[str, float]:
    """Gains box, cls, obj of a hyper-parameter file -> gains to train with.

    image_size: pixels of the longer side of the training frame. rule: "yolov5" (YOLOv3, v5, v7): box *= 3/levels, cls
    *= classes/80 * 3/levels, obj *= (image/640)^2 * 3/levels; "yolov4" (ScaledYOLOv4, YOLOR): the same but obj *=
    3/levels, and 1.4 more from 4 levels on.
    """
    levels = 3 / num_levels
    objectness = levels * ((1.4 if num_levels >= 4 else 1.0) if rule == "yolov4" else (image_size / 640) ** 2)
    factors = {"box": levels, "cls": num_classes / 80 * levels, "obj": objectness}
    return {term: gain * factors[term] for term, gain in gains.items()}
