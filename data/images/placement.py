"""How images lie in the frames of a model: its `utils.frame.Frame` at the size that was chosen.

Training, evaluation and `detect.py` ask here, so a box means the same in all three.

Legend: n images, H, W pixels of a frame; sizes are (height, width).
"""

from dataclasses import dataclass

import numpy as np

from data.images.letterbox import Place, fit_side, plan_letterbox, plan_rect, set_in
from utils.frame import Frame

Size = tuple[int, int]


@dataclass(frozen=True)
class Placement:
    """A frame at a size: what `Frame.resolve` gives, (height, width) or (shorter, longer) side."""

    frame: Frame
    size: Size

    @classmethod
    def of(cls, frame: Frame, sides: "int | Size | Placement | None" = None) -> "Placement":
        """From the one or two numbers that `Frame.resolve` takes."""
        return sides if isinstance(sides, cls) else cls(frame, frame.resolve(sides))

    @property
    def side(self) -> int:
        """The longest side that an image is meant to have."""
        return max(self.size)

    @property
    def corner(self) -> bool:
        """Whether padding lies on the right and at the bottom alone."""
        return self.frame.pad == "corner"

    def fitted(self, original: Size) -> Size:
        """The size of an image that has a frame of its own."""
        if self.frame.fit == "stretch":
            return self.size
        if self.frame.fit == "letterbox":
            return fit_side(original, self.side)
        short, long = self.size
        ratio = min(short / min(original), long / max(original))
        return max(round(original[0] * ratio), 1), max(round(original[1] * ratio), 1)

    def fitted_all(self, sizes: np.ndarray) -> np.ndarray:
        """`fitted` of images (n, 2)."""
        if self.frame.fit == "stretch":
            return np.broadcast_to(np.array(self.size, np.int64), sizes.shape)
        if self.frame.fit == "letterbox":
            ratio = self.side / sizes.max(1, initial=1)
        else:
            short, long = self.size
            ratio = np.minimum(short / sizes.min(1), long / sizes.max(1))
        return np.maximum(np.rint(sizes * ratio[:, None]).astype(np.int64), 1)

    def in_frame(self, original: Size, frame: Size) -> Place:
        """An image in a frame that it may share with others: as large as it is meant to be, or as the frame allows."""
        if self.frame.fit == "stretch":
            return frame, set_in(original, frame, frame)
        if self.frame.fit == "letterbox":
            return plan_rect(original, self.side, frame, self.corner)
        inner = self.fitted(original)
        if inner[0] > frame[0] or inner[1] > frame[1]:
            return plan_letterbox(original, frame, corner=self.corner)
        return inner, set_in(original, inner, frame, self.corner)

    def on_canvas(self, original: Size, frame: Size) -> Place:
        """An image as training lays it out before it is moved: letterboxed ones fill their frame."""
        if self.frame.fit == "letterbox":
            return plan_letterbox(original, frame, corner=self.corner)
        return self.in_frame(original, frame)

    def alone(self, original: Size) -> Place:
        """An image in a frame of its own, with as little padding as the model allows."""
        if self.frame.fit == "letterbox":
            return plan_letterbox(original, self.size, auto=self.frame.size is None, stride=self.frame.multiple,
                                  corner=self.corner)
        return self.in_frame(original, self.frame.up(self.fitted(original)))

    def batch_frame(self, sizes: np.ndarray) -> Size:
        """The frame of a batch of images (B, 2)."""
        if not self.frame.fits_images:
            return self.frame.up(self.size)
        return self.frame.up(tuple(self.fitted_all(sizes).max(0).tolist()))

    def rect_frame(self, sizes: np.ndarray, pad: float) -> Size:
        """The smallest letterboxed frame for a batch of images (B, 2): ceil(side / stride + pad) * stride, as in
        YOLO."""
        stride, aspects = self.frame.multiple, sizes[:, 0] / sizes[:, 1]
        shape = np.array((min(aspects.max(), 1.0), min(1 / aspects.min(), 1.0)))
        height, width = (np.ceil(shape * self.side / stride + pad).astype(int) * stride).tolist()
        return height, width
