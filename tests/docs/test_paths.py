"""Paths and links in the documentation exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks" / "README.md"]
PACKAGES = "benchmarks|cfg|data|docs|engine|models|tests|utils"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_paths_and_links_exist(page):
    text = page.read_text(encoding="utf-8")
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    missing = [link for link in links if link and not (page.parent / link).exists()]
    for target, anchor in re.findall(r"\]\(([^)\s:]*)#([^)\s]+)\)", text):
        headings = re.findall(r"^#+ (.*)", (page.parent / target if target else page).read_text(encoding="utf-8"), re.M)
        if anchor not in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}:
            missing.append(f"{target}#{anchor}")
    added = re.findall(r"# ((?:data|models)/\S+\.py)\n", text)  # files that an example adds
    elsewhere = {"data/deeppcb"}  # below the folder of `benchmarks.gpu --shared`
    named = re.findall(rf"`((?:{PACKAGES})/[\w./@-]+)`", text) + re.findall(r"pytest ([\w/.]+)", text)
    missing += [path for path in named if path not in {*added, *elsewhere} and not (ROOT / path).exists()]
    assert not missing
