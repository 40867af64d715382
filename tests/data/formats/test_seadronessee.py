"""SeaDronesSee in its COCO form: what is marked to be ignored is an ignore region, and no class."""

import yaml

from data.labels.records import RecordTable
from tests.data import coco_files
from utils.config import find_config

NAMES = ["ignored", "swimmer", "boat", "jetski", "life_saving_appliances", "buoy"]


def test_marked_annotations_are_ignore_regions(tmp_path):
    shipped = yaml.safe_load(find_config("seadronessee", "data").read_text())
    assert shipped["names"] == NAMES[1:]
    rows = [coco_files.row(1, 1, [10, 10, 20, 20], 1), coco_files.row(2, 1, [50, 40, 32, 32], 2, ignore=1),
            coco_files.row(3, 1, [90, 90, 30, 30], 5, ignore=0),
            {**coco_files.row(4, 1, [5, 80, 30, 30], 1), "iscrowd": 1},
            coco_files.row(5, 1, [60, 60, 9, 9], 0)]
    path = coco_files.write(tmp_path, coco_files.images_of([1]), rows,
                            [{"id": k, "name": name} for k, name in enumerate(NAMES)], names=shipped["names"])
    index = coco_files.load(path)
    table = RecordTable.from_records(index.records)
    assert table.labels.tolist() == [0, 1, 4, 0] and table.ignore.tolist() == [False, True, False, True]
    assert index.names == NAMES[1:] and index.report.count("marked") == 1 and index.report.count("other_class") == 1
