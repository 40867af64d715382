"""Boxes of a COCO file that are not left, top, width, height in pixels, recognised where all of a split say so."""

import numpy as np

from data.formats.raw_labels import RawLabels
from utils.errors import UserError

FEW = 3  # boxes that reach out of their images, below which it may be a coincidence
SHARE = 0.1  # and the share of all
ROUNDING = 1.0  # pixels


def check_units(found: RawLabels) -> None:
    """`UserError` where the boxes (M, 4), left, top, width, height, are fractions of the image, or corners.

    Corners: in every box the third number is beyond the first and the fourth beyond the second, all lie within the
    image, and either the areas are those of corners and not of widths, or many boxes would reach out of their image.
    """
    boxes = found.boxes
    sized = (boxes[:, 2:] > 0).all(1)
    if not sized.any():
        return
    place = f"{found.label_files[found.image[0]]} {found.row_name} {found.rows[0]}"
    said = ", ".join(f"{v:g}" for v in boxes[0])
    if max(boxes.max(), -boxes.min()) <= 1 and (found.stated_sizes != 1).any():
        raise UserError(f"{place}: `bbox` [{said}] should be left, top, width, height in pixels, and in this whole "
                        f"split no number is above 1: they are fractions of the image; multiply them by its width and "
                        f"height", "wrong-units")
    if (sized & (boxes[:, 2:] <= boxes[:, :2]).any(1)).any():  # so on nearly all data, before anything is copied
        return
    far = boxes[sized]
    frame = found.stated_sizes[found.image[sized]][:, ::-1].astype(np.float64)  # (M, 2) width, height or 0
    frame = np.where(frame > 0, frame, np.inf)
    if (far < 0).any() or (far[:, 2:] > frame + ROUNDING).any():
        return
    corners, sides = (far[:, 2:] - far[:, :2]).prod(1), far[:, 2:].prod(1)
    areas = found.areas[sized]
    stated = areas > 0
    as_corners = (stated & (np.abs(areas - corners) <= 0.01 * corners + 0.5)
                  & (np.abs(areas - sides) > 0.01 * sides + 0.5))
    beyond = (far[:, :2] + far[:, 2:] > frame + ROUNDING).any(1)
    by_area = stated.any() and as_corners.sum() >= 0.95 * stated.sum()
    if by_area or (beyond.sum() >= FEW and beyond.mean() >= SHARE):
        why = "their areas are those of corners" if by_area else f"{beyond.sum()} would reach out of their image"
        raise UserError(f"{place}: `bbox` [{said}] should be left, top, width, height; all {len(boxes)} boxes of this "
                        f"split look like corners x1, y1, x2, y2 ({why}); write x2 - x1 and y2 - y1 for the last two",
                        "wrong-units")
