"""Reading datasets: `load_index`. Loaders and augmentation are imported from their own modules."""

from data.index import Index, load_index
from data.labels.records import Record
from data.labels.scan_report import ScanReport

__all__ = ["Index", "Record", "ScanReport", "load_index"]
