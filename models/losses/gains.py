"""Loss gains: what the published hyper-parameter files mean for another number of levels, classes or pixels."""

from collections.abc import Mapping

from utils.errors import UserError, nearest

FAMILIES = ("v3", "v4", "v5", "v7", "v8", "yolor")


def scale_gains(gains: Mapping[str, float], num_levels: int, num_classes: int, image_size: int | tuple[int, int],
                family: str) -> dict[str, float]:
    """Gains of a hyper-parameter file -> gains to train with.

    image_size: pixels of the (longer) side of the training frame. family: "v3", "v5", "v7" (with or without "yolo", and
    with or without a suffix, as in "yolov7-p6"): box *= 3/levels, cls *= classes/80 * 3/levels, obj *= (image/640)^2 *
    3/levels; "v4", "yolor": the same but obj *= 3/levels, and 1.4 more from 4 levels on; "v8": as they are. Raises
    `UserError` for another family.
    """
    name = family.lower().partition("-")[0]
    name = name if name in FAMILIES else name.removeprefix("yolo")
    if name not in FAMILIES:
        raise UserError(f"family {family!r} has no rule for its loss gains; "
                        f"{nearest(name, list(FAMILIES)) or 'one of ' + ', '.join(FAMILIES)}")
    if name == "v8":
        return dict(gains)
    other = sorted(gains.keys() - {"box", "cls", "obj"})
    if other:
        raise UserError(f"gains {', '.join(other)} are not among box, cls, obj, those of an anchor head; give a recipe "
                        "of the model's family")
    side = image_size if isinstance(image_size, int) else max(image_size)
    levels = 3 / num_levels
    if name in ("v4", "yolor"):
        objectness = levels * (1.4 if num_levels >= 4 else 1.0)
    else:
        objectness = levels * (side / 640) ** 2
    factors = {"box": levels, "cls": num_classes / 80 * levels, "obj": objectness}
    return {term: gain * factors[term] for term, gain in gains.items()}
