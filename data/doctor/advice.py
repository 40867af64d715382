"""What to do about each kind of finding, as the verdict says it; and why a split has no object."""

from data.labels.scan_report import KINDS, ScanReport

FILES = "copy these files again, or take them out of the split"
ROWS = "correct these rows, or delete them"
ADVICE = {
    # what the scan repaired or left out
    "missing_image": "copy them to where they are looked for, or correct the list or `file_name`",
    "moved_image": "correct `file_name`, or the folder of images in the YAML",
    "corrupt_image": FILES,
    "large_image": "raise --max-pixels, or cut them into smaller ones",
    "unread_image": "convert them to JPEG or PNG",
    "closed_folder": "change their permissions",
    "turned_image": "see in sheet.jpg whether boxes lie on their objects; if not, labels were made on the unturned "
                    "images: take the orientation out of the files",
    "unturned_image": "take the orientation out of the files, so that detection sees them in the same frame",
    "endless_image": FILES,
    "special_file": "take them out of the folder",
    "named_class": "write the numbers of classes, from 0",
    "repeated_image": "list each image once",
    "shared_id": "give each image an `id` of its own",
    "twin_image": "list each file once",
    "bad_window": "correct `corner`, or the images that it belongs to",
    "corrupt_label": "repair these files, or delete them with their images",
    "wrong_encoding": "save them as UTF-8",
    "corrupt_row": ROWS,
    "mended_row": "write rows as: class x y width height",
    "shared_label": "rename one of the two images and its labels",
    "not_fractions": "divide pixels by the image's size, percent by 100",
    "bad_class": "add the class to `names`, or correct the labels; do ids count from 1?",
    "other_class": "add them to `names` if they should be trained on",
    "orphan": "let `image_id` be the `id` of an image in the file",
    "swapped": "write the smaller corner first",
    "clipped": "where there are many, labels may belong to images of another size",
    "odd_area": "write the object's area, or leave `area` out",
    "no_area": "draw them again, or delete them",
    "duplicate": "delete one of each; an export that ran twice makes them",
    "wrong_size": "see in sheet.jpg whether boxes lie on their objects; if not, images were resized after labelling",
    "lonely_label": "restore their images, or delete them",
    "missing_label": "put labels where they are looked for; an empty file says that there is no object",
    # what the doctor finds
    "no_objects": "correct that, or name another folder in the YAML",
    "background": "put labels where they are looked for, unless these images show no object",
    "thin": "delete mistakes; real ones need a larger --imgsz or --tile",
    "whole": "see in sheet.jpg whether they are objects",
    "stretched": "see in sheet.jpg whether they are objects",
    "contested": "keep the right class of each, and delete the other",
    "twice": "delete one of each",
    "crowded": "see in sheet.jpg whether they are labelled like the others",
    "dense": "raise --max-det, and read AP at more detections beside it",
    "absent": "delete them from `names`, or add images of them",
    "unseen": "add images of them to train: they cannot be learned",
    "rare": "add images of them, or show theirs more often with --rare-classes",
    "same_name": "give each class a name of its own",
    "leak": "take them out of one of the two splits",
    "repeated": "delete copies, unless more weight is meant",
    "disagreement": "correct the labels of one of each pair",
    "undecodable": FILES,
    "names": "give `names:` in the YAML",
}


def advice_for(kind: str) -> str:
    """What to do about a kind of finding, as the end of a sentence; empty where nothing needs to be done."""
    return f"; {ADVICE[kind]}" if kind in ADVICE else ""


def why_empty(report: ScanReport) -> str:
    """Why a split has not one object to learn from, as the end of a sentence."""
    if report.ignored:
        return (f"all {report.ignored} labels are ignore regions (`iscrowd`, `ignore` or `difficult`): set these flags "
                "to 0 where they mark objects")
    lost = [(count, KINDS[kind][0], example) for kind, (count, example) in report.findings.items()
            if "skipped" in KINDS[kind][1] and "image" not in kind or kind == "corrupt_label"]
    if lost:
        count, what, example = max(lost)
        return f"all labels were left out, {count} of them as {what}, the first: {example}"
    if report.count("missing_label") >= report.images:
        return f"no image has a label file, the first that is looked for: {report.findings['missing_label'][1]}"
    return "the label files hold no row"
