"""The page of the zoo: complete, and what the command would write."""

import pytest

from benchmarks.zoo import PAGE, fill, measure
from models import known_models
from models.registry import known_necks
from utils.errors import UserError


def test_the_page_lists_every_name_with_every_neck():
    page = PAGE.read_text(encoding="utf-8")
    names = [name + suffix for name in known_models() for suffix in ("", *(f"-{neck}" for neck in known_necks()))]
    assert not [name for name in names if f"\n| `{name}` |" not in page]


@pytest.mark.parametrize("name", ["yolov3-tiny", "yolov5s6-assn", "yolor-p6-ssfpn", "yolov7-w6-assn", "yolov8n-p2"])
def test_the_page_holds_what_is_measured_now(name):
    assert f"\n| {' | '.join(measure(name))} |\n" in PAGE.read_text(encoding="utf-8")


def test_a_table_is_written_between_its_markers():
    page = "before\n<!-- pan -->\nold\n<!-- end of pan -->\nafter"
    assert fill(page, "pan", "new") == page.replace("old", "new")
    with pytest.raises(UserError, match="no lines <!-- assn --> and <!-- end of assn -->"):
        fill(page, "assn", "new")
