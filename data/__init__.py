"""Reading datasets. `load_index` is the door; loaders and augmentation are imported by their own modules."""

from data.index import Index, load_index
from data.labels.records import Record
from data.labels.scan_report import ScanReport

__all__ = ["Index", "Record", "ScanReport", "load_index"]
