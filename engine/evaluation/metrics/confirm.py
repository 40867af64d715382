"""Whether pycocotools computes the same numbers, and from which files."""

from data.truth import own_file
from engine.evaluation.metrics.engine import PycocotoolsEngine
from engine.evaluation.metrics.found import Found
from engine.evaluation.metrics.judge import Metrics, stats_of
from engine.evaluation.metrics.reference import pycocotools_stats
from engine.evaluation.metrics.results_file import result_rows
from utils.truth import Truth, most_objects


def compare_with_pycocotools(truth: Truth, found: Found, metrics: Metrics, max_det: int | None = None) -> list[str]:
    """Notes on the ground truth, and whether pycocotools computes the same metrics.

    "Confirmed" means: from the user's own file, and the detections that --save-json writes. max_det: the limit of
    detections per image; a note says where it is too low.
    """
    ours, notes = metrics.values, [f"note: {note}" for note in truth.notes]
    most, image, _ = most_objects(truth, by_class=False)
    if max_det is not None and most > max_det:
        notes.append(f"note: image {truth.image_ids[image]} has {most} objects and at most {max_det} are looked for in "
                    f"one: val.py --max-det {most} or more finds the others too")
    if truth.crowd.all():
        return [*notes, f"there is nothing to judge by: the {truth.what} hold no object"]
    if truth.file:
        try:
            own = pycocotools_stats(own_file(truth.file), result_rows(truth, found))
        except ValueError as error:
            notes.append(f"pycocotools fails on {truth.file} as it stands ({error})")
        else:
            differing = differences(own, ours)
            if not differing:
                return [*notes, f"the twelve numbers are confirmed by pycocotools on {truth.file}"]
            notes.append(f"pycocotools on {truth.file} as it stands gives other numbers: {differing}")
        notes += [f"  the file has {what}" for what in truth.departures]
    return [*notes, same_by_pycocotools(truth, found, metrics)]


def same_by_pycocotools(truth: Truth, found: Found, metrics: Metrics) -> str:
    """Whether pycocotools with the settings of a protocol of COCO's rule computes the same numbers."""
    protocol = metrics.protocol
    reference = PycocotoolsEngine(protocol.truth(truth), found).accumulate(protocol)
    differing = differences(stats_of(reference, protocol), metrics.values)
    what = f"the {truth.what}" + ", read as they are meant" * bool(truth.file)
    if differing:
        return f"pycocotools differs: {differing}"
    if protocol.name == "coco":
        return f"pycocotools gives the same twelve numbers on {what}"
    return f"pycocotools with these sizes, overlaps and limits gives the same {len(metrics.values)} numbers on {what}"


def differences(reference: dict[str, float], ours: dict[str, float]) -> str:
    """The metrics that differ, with both values; '' if none does."""
    return ", ".join(f"{k} {v:.4f} (here {ours[k]:.4f})" for k, v in reference.items() if abs(v - ours[k]) > 1e-9)
