"""What images and classes are called in predictions.json."""

from collections.abc import Hashable, Sequence

from engine.inference.sources import Frame


class ResultIds:
    """The model's own: an image is called after its file, a class by its number, from 0."""

    def __init__(self, names: Sequence[str]) -> None:
        self.own_categories: list[Hashable] = list(range(len(names)))

    def of(self, frame: Frame) -> tuple[str, Hashable, Sequence[Hashable]]:
        """file_name and image_id of a frame, and the category_id of each class.

        image_id: the file name without suffix, as a number if it is one, as in COCO.
        """
        stem = frame.stem
        return frame.path, int(stem) if stem.isdecimal() else stem, self.own_categories
