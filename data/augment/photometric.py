"""The photometric distortion of SSD: brightness, contrast, saturation, hue and a new order of the channels.

Liu et al. 2016 (arXiv 1512.02325), section 2.2, after Howard 2013; steps and ranges are those of the Caffe code. All
steps work on float32 pixels of 0..255 that may leave that range on the way; they are rounded and clipped once, at the
end, into the uint8 that a loader gives. The originals feed what lies beyond 0..255 to the network.

Legend: H, W pixels; OpenCV's HSV of float32 pixels has hue in [0, 360), saturation in [0, 1], value as the pixels.
"""

from dataclasses import dataclass

import cv2
import numpy as np

Array = np.ndarray
STRIP = 1 << 14  # pixels worked on at a time: all steps then find them in the core's own cache, a third of the time


@dataclass(frozen=True)
class Photometric:
    """What is done to the pixels of an image; the defaults leave them alone.

    brightness is added, in steps of 255; contrast and saturation are factors; hue is added, in degrees; contrast comes
    before the step through HSV or after it; channel k of the result is channel `channels[k]`, in the order BGR.
    """

    brightness: float = 0.0
    contrast: float = 1.0
    contrast_first: bool = True
    saturation: float = 1.0
    hue: float = 0.0
    channels: tuple[int, int, int] = (0, 1, 2)

    def numbers(self) -> tuple[float, ...]:
        """(8,) brightness, the gain before HSV, saturation, hue, the gain after it, and where R, G and B come from
        among B, G, R."""
        gains = (self.contrast, 1.0) if self.contrast_first else (1.0, self.contrast)
        return self.brightness, gains[0], self.saturation, self.hue, gains[1], *self.channels[::-1]


def distort(image: Array, steps: Photometric) -> Array:
    """(H, W, 3) uint8 BGR -> (H, W, 3) float32 BGR, neither rounded nor clipped."""
    return (_before_last_gain(image, steps) * np.float32(steps.numbers()[4]))[..., steps.channels]


def adjust_photometric(image: Array, steps: Photometric, out: Array) -> None:
    """Distort (H, W, 3) uint8 BGR into `out`, (H, W, 3) uint8 RGB: rounded, and clipped to 0..255."""
    rows, gain = max(STRIP // image.shape[1], 1), steps.numbers()[4]
    places = [place for channel, k in enumerate(steps.channels) for place in (k, 2 - channel)]
    for top in range(0, len(image), rows):
        pixels = _before_last_gain(image[top:top + rows], steps)
        # A weighted sum is the fastest of OpenCV's ways to multiply, to round and to clip.
        cv2.mixChannels([cv2.addWeighted(pixels, gain, pixels, 0.0, 0.0, dtype=cv2.CV_8U)], [out[top:top + rows]],
                        places)


def _before_last_gain(image: Array, steps: Photometric) -> Array:
    """All steps on (H, W, 3) uint8 BGR but the contrast that comes last and the order of the channels; float32."""
    brightness, gain, saturation, hue, *_ = steps.numbers()
    # Look-ups of 256 numbers give what the same float32 sums give at every pixel, in a sixth of the time.
    pixels = cv2.LUT(image, (np.arange(256, dtype=np.float32) + np.float32(brightness)) * np.float32(gain))
    # Through HSV even where nothing changes there, as in the originals: a pixel below 0 does not come back as it was.
    hsv = cv2.cvtColor(pixels, cv2.COLOR_BGR2HSV)
    if hue or saturation != 1:
        hsv = cv2.transform(hsv, np.array([[1, 0, 0, hue], [0, saturation, 0, 0], [0, 0, 1, 0]], np.float32), dst=hsv)
        angles = hsv[..., 0]  # wrapped around here, since OpenCV 5 mirrors those below 0
        if hue > 0:
            np.subtract(angles, 360, out=angles, where=angles > 360)
        elif hue < 0:
            np.add(angles, 360, out=angles, where=angles < 0)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR, dst=pixels)
