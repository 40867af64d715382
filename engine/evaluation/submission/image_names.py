"""How results files that are no JSON call images: by the stems of their files."""

import re
from collections import Counter
from pathlib import Path

from data import Index
from utils.errors import UserError, shown


def image_stems(index: Index, flag: str) -> dict[int, str]:
    """The stem of each image's file by its id. flag: what the user gave, for messages.

    Raises `UserError` where two images have the same stem, or one has a space in it.
    """
    paths = {record.image_id: record.path for record in index.records}
    stems = {image_id: Path(path).stem for image_id, path in paths.items()}
    stem, count = Counter(stems.values()).most_common(1)[0]
    if count > 1 or len(stems) < len(index.records):
        raise UserError(f"{flag}: {max(count, 2)} images of `{index.source.split}:` are named {shown(stem)}, and the "
                        f"server's files name images by that alone; evaluate one folder at a time", "repeated-name")
    spaced = next((path for image_id, path in paths.items() if re.search(r"\s", stems[image_id])), None)
    if spaced:
        raise UserError(f"{flag}: {spaced} has a space in its name, and the server's files have spaces between their "
                        f"columns; rename it", "bad-name")
    return stems
