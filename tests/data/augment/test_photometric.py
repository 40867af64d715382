"""The photometric distortion of SSD."""

import colorsys

import cv2
import numpy as np
import pytest

from data.augment.photometric import Photometric, adjust_photometric, distort


def _picture(seed: int = 0) -> np.ndarray:
    """(90, 300, 3) uint8: every kind of colour, with greys, black and white."""
    image = np.random.default_rng(seed).integers(0, 256, (90, 300, 3), dtype=np.uint8)
    image[:2], image[2], image[3] = image[:2, :, :1], 0, 255
    return image


def _adjusted(image: np.ndarray, steps: Photometric) -> np.ndarray:
    out = np.empty_like(image)
    adjust_photometric(image, steps, out)
    return out


def test_the_defaults_change_nothing_but_the_order_of_the_channels():
    image = _picture()
    assert np.array_equal(_adjusted(image, Photometric()), image[..., ::-1])


@pytest.mark.parametrize("first", [True, False])
def test_contrast_and_brightness_leave_the_range_until_the_end(first):
    image = _picture()
    steps = Photometric(brightness=30.0, contrast=0.5, contrast_first=first)
    got = distort(image, steps)
    assert got.dtype == np.float32 and np.abs(got - (image + 30.0) / 2).max() < 1e-4
    assert got.max() > 142  # white, 285 before the contrast, was not cut to 255
    bright = _adjusted(image, Photometric(brightness=32.0, contrast=1.5))
    error = np.abs(bright - np.clip((image[..., ::-1] + 32.0) * 1.5, 0, 255))
    assert error.max() <= 0.5 + 1e-3 and bright.max() == 255


@pytest.mark.parametrize("hue", [-18.0, 17.3])
def test_saturation_and_hue_are_those_of_a_colour_circle(hue):
    image = _picture()[:20]
    got = distort(image, Photometric(saturation=0.6, hue=hue, contrast=0.9, contrast_first=False))
    for bgr, new in zip(image.reshape(-1, 3)[::7] / 255, got.reshape(-1, 3)[::7], strict=True):
        h, s, v = colorsys.rgb_to_hsv(*bgr[::-1])
        want = np.array(colorsys.hsv_to_rgb((h + hue / 360) % 1, s * 0.6, v))[::-1] * 255 * 0.9
        assert np.abs(new - want).max() < 1e-3


def test_strong_saturation_takes_channels_below_zero_and_the_end_clips_them():
    image = np.full((1, 4, 3), (10, 40, 200), np.uint8)
    assert distort(image, Photometric(saturation=1.5))[0, 0].min() < -50
    assert _adjusted(image, Photometric(saturation=1.5))[0, 0].tolist() == [200, 0, 0]


def test_a_new_order_of_the_channels():
    image = _picture()
    swapped = distort(image, Photometric(channels=(1, 2, 0)))
    assert np.abs(swapped - image[..., [1, 2, 0]]).max() < 1e-3
    assert np.array_equal(_adjusted(image, Photometric(channels=(1, 2, 0))), image[..., [0, 2, 1]])


def test_strips_and_the_rest_of_an_array_do_not_matter():
    image, steps = _picture(1), Photometric(-20.0, 1.3, False, 0.7, 9.0, (2, 0, 1))
    whole = _adjusted(image, steps)
    assert np.array_equal(whole, np.concatenate([_adjusted(image[k:k + 7], steps) for k in range(0, 90, 7)]))
    larger = cv2.copyMakeBorder(image, 5, 5, 5, 5, cv2.BORDER_CONSTANT)
    out = np.full_like(larger, 9)
    adjust_photometric(larger[5:-5, 5:-5], steps, out[5:-5, 5:-5])
    assert np.array_equal(out[5:-5, 5:-5], whole) and (out[:5] == 9).all()
