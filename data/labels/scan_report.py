"""What a scan of a dataset found: every image or label that is not taken as it is, counted, with a first example."""

from dataclasses import dataclass, field
from typing import Any

from utils.errors import UserError

# kind -> (what it is, what was done about it)
KINDS = {
    "missing_image": ("images not found", "skipped"),
    "corrupt_image": ("images that cannot be read whole", "skipped"),
    "large_image": ("images of more pixels than --max-pixels allows", "skipped"),
    "endless_image": ("JPEG files without their end marker", "kept: at most a corner of 16 x 16 pixels is missing"),
    "turned_image": ("images with an EXIF orientation", "turned by it, in training, validation and detection alike"),
    "unturned_image": ("images with an EXIF orientation whose label file has the size of the unturned image",
                       "not turned in training and validation; detection turns such files"),
    "deep_image": ("images of more than 8 bits per value", "scaled to 8 bits by the range that each uses"),
    "unread_image": ("images of kinds that are not read here", "left out; convert them to JPEG or PNG"),
    "special_file": ("pipes, sockets or devices with the name of an image", "left out"),
    "leftover": ("hidden images and those that other programs leave (._*, .ipynb_checkpoints, __MACOSX)", "left out"),
    "closed_folder": ("folders that cannot be read", "skipped"),
    "repeated_image": ("images listed twice", "taken once"),
    "shared_id": ("images whose id another image has too", "skipped with their labels, which cannot be attributed"),
    "twin_image": ("entries of files that are listed under several ids", "each shows the labels of all of them"),
    "moved_image": ("images that are not where `file_name` says", "found by their name"),
    "bad_window": ("windows (`corner`) that reach out of their file", "skipped"),
    "corrupt_label": ("label files that cannot be read", "image skipped"),
    "wrong_encoding": ("label files in another encoding than they declare", "read in one that fits"),
    "corrupt_row": ("labels that are not well formed", "skipped"),
    "mended_row": ("labels with commas between the numbers, or a confidence or words after them",
                   "read without those"),
    "named_class": ("labels that give the name of their class", "read with its number"),
    "extra_columns": ("labels with keypoints, or a confidence and an id, after the box", "the box is taken"),
    "shared_label": ("images whose label file is that of another image too", "it is read for both"),
    "not_fractions": ("labels that are no fractions of their image (pixels or percent?)", "skipped"),
    "bad_class": ("labels of an unknown class", "skipped"),
    "other_class": ("labels of classes that `names` leaves out", "skipped"),
    "orphan": ("labels of an image that is not listed", "skipped"),
    "swapped": ("boxes whose corners are swapped", "corrected"),
    "clipped": ("boxes that reach out of their image", "cut at its border"),
    "meant_area": ("areas that are missing, null or a text", "read as the number, or the box's own is taken"),
    "meant_flag": ("`iscrowd` flags that are missing, null or a text", "read by their meaning"),
    "meant_number": ("annotation ids that are missing, null or a text", "taken without"),
    "meant_box": ("annotations without `bbox`", "the box around their outline is taken"),
    "odd_area": ("areas that cannot be (0, one for all, larger than the box or a hundredth of it)",
                 "the box's own is taken"),
    "marked": ("annotations marked `ignore` or `uncertain`", "ignore regions"),
    "no_area": ("boxes without area inside their image", "skipped"),
    "duplicate": ("boxes given twice", "taken once"),
    "wrong_size": ("label files that state another image size", "the size of the image counts"),
    "wrong_name": ("label files that name another image or folder", "their own path counts"),
    "lonely_label": ("label files without an image", "left out"),
    "missing_label": ("images without a label file", "kept as background"),
}
LOST = ("bad_class", "corrupt_row", "not_fractions", "orphan")  # counted in labels, whose objects are not learned
LOUD = 0.01  # share of all labels from which on that is a warning
# `strict` lets them pass: nothing is lost
HARMLESS = ("turned_image", "unturned_image", "deep_image", "leftover", "extra_columns", "missing_label", "other_class",
            "wrong_size", "wrong_name", "moved_image", "odd_area", "marked", "meant_area",
            "meant_flag", "meant_number", "meant_box")


@dataclass
class ScanReport:
    """images, boxes, ignored (crowd regions) and background (images without a box) are what is left to use.

    findings: kind of KINDS -> [count, first example]; notes: sentences about the YAML and the cache.
    """

    images: int = 0
    boxes: int = 0
    ignored: int = 0
    background: int = 0
    findings: dict[str, list[Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, kind: str, example: str, count: int = 1) -> None:
        """Count `count` more of a kind; the first example is kept."""
        if kind not in KINDS:
            raise KeyError(kind)
        if count:
            self.findings.setdefault(kind, [0, example])[0] += count

    def count(self, kind: str) -> int:
        """How many of a kind were found."""
        if kind not in KINDS:
            raise KeyError(kind)
        return self.findings.get(kind, [0])[0]

    def check_strict(self) -> None:
        """Raise `UserError` where an image or a label was changed or left out."""
        for kind, (count, example) in self.findings.items():
            if kind not in HARMLESS:
                raise UserError(f"{count} {KINDS[kind][0]}, the first: {example}; correct them or leave --strict off",
                                "strict-finding")

    def format(self) -> str:
        """A line of totals, then a line for each kind of finding and each note."""
        lines = [f"{self.images} images ({self.background} background), {self.boxes} boxes, "
                 f"{self.ignored} ignore regions"]
        lost = sum(self.count(kind) for kind in LOST)
        share = lost / max(lost + self.boxes + self.ignored, 1)
        if share > LOUD:
            lines.append(f"WARNING: {share:.1%} of all labels ({lost}) are left out, and their objects count as "
                         "background; correct them, or `names` and `nc` of the data YAML (--strict stops here)")
        for kind, (what, done) in KINDS.items():
            if kind in self.findings:
                count, example = self.findings[kind]
                lines.append(f"  {count} {what}: {done}; the first: {example}")
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])
