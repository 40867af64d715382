"""Colours: of classes, of what becomes of objects and detections, and of text on them. All BGR, 0 to 255."""

from collections.abc import Iterable
from functools import cache

Colour = tuple[int, int, int]


def of_hex(code: str) -> Colour:
    """`rrggbb`, with or without #, as BGR."""
    red, green, blue = bytes.fromhex(code.removeprefix("#"))
    return blue, green, red


def to_hex(colour: Colour) -> str:
    """A BGR colour as `#rrggbb`, which HTML and matplotlib read."""
    return "#" + bytes(colour[::-1]).hex()


# Each as far as possible from those before it in OKLab (Ottosson 2020), with lightness counted 0.7-fold, among colours
# that are neither dark nor grey: the nearest two are 0.120 apart (0.076 in a hand-made list of as many).
PALETTE = tuple(map(of_hex, (
    "ff3838", "0084ff", "1ebe46", "ffb300", "e100ff", "69ffff", "873cff", "c3ff00", "00a5b4", "ff0fa5", "966900",
    "f0b4ff", "965a96", "ff9696", "a587ff", "3c874b", "b4e196", "a5a50f", "00ff96", "ff78ff")))
STEP = 7  # has no factor in common with 20: a class that does not get its own colour tries all the others

# What becomes of objects and detections; of Okabe and Ito, whose colours colour-blind readers tell apart.
HIT, FOUND, MISSED, ALARM, CROWD = map(of_hex, ("009e73", "56b4e9", "d55e00", "f0e442", "999999"))


def color(index: int) -> Colour:
    """The colour of class `index`: 20 colours, then again from the first."""
    return PALETTE[int(index) % len(PALETTE)]


def class_colours(labels: Iterable[int]) -> dict[int, Colour]:
    """The colours of the classes of one picture, which differ while there are colours left.

    A class has its own, `color`, in every picture where no class before it has the same; so up to 20 classes never
    change theirs.
    """
    given: dict[int, Colour] = {}
    taken: set[Colour] = set()
    for label in sorted(set(labels)):
        tries = (color(label + STEP * k * (1 + label // len(PALETTE) * 2)) for k in range(len(PALETTE)))
        given[label] = next((colour for colour in tries if colour not in taken), color(label))
        taken.add(given[label])
    return given


def luminance(colour: Colour) -> float:
    """Relative luminance, 0 to 1 (WCAG 2.2)."""
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (c / 255 for c in colour)]
    return 0.0722 * linear[0] + 0.7152 * linear[1] + 0.2126 * linear[2]


def contrast(one: Colour, other: Colour) -> float:
    """Contrast ratio of two colours, 1 to 21 (WCAG 2.2)."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@cache
def ink_on(colour: Colour) -> Colour:
    """Black or white, whichever is easier to read on a colour: a contrast of 4.5 at least."""
    return (0, 0, 0) if luminance(colour) > 0.179 else (255, 255, 255)
