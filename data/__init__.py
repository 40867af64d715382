"""Reading datasets: `load_index`. Loaders and augmentation are imported from their own modules."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data.index import Index, load_index
    from data.labels.records import Record
    from data.labels.scan_report import ScanReport

__all__ = ["Index", "Record", "ScanReport", "load_index"]
PLACES = {"Index": ".index", "load_index": ".index", "Record": ".labels.records", "ScanReport": ".labels.scan_report"}


def __getattr__(name: str) -> Any:
    """Imported when it is asked for: a COCO file is judged without what opens images."""
    if name not in PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(PLACES[name], __name__), name)
