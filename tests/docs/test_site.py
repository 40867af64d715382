"""The documentation as a site: every page is on it, and every link in it leads somewhere."""

import logging
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


def leaves(entry):
    return [entry] if isinstance(entry, str) else [
        leaf for part in (entry.values() if isinstance(entry, dict) else entry) for leaf in leaves(part)]


def test_every_page_is_in_the_menu():
    pages = {path.name for path in (ROOT / "docs").glob("*.md")}
    menu = leaves(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])
    assert sorted(menu) == sorted({*pages, "index.md", "benchmarks/README.md"})


def test_the_site_is_built_without_a_warning(tmp_path, monkeypatch):
    pytest.importorskip("material", reason="mkdocs-material is not installed")
    build, config = pytest.importorskip("mkdocs.commands.build"), pytest.importorskip("mkdocs.config")
    monkeypatch.setattr(logging.getLogger("mkdocs"), "propagate", False)
    build.build(config.load_config(str(ROOT / "mkdocs.yml"), strict=True, site_dir=str(tmp_path / "site")))
    assert (tmp_path / "site/zoo/index.html").is_file() and (tmp_path / "site/search/search_index.json").is_file()
    assert "fonts.googleapis" not in (tmp_path / "site/index.html").read_text(encoding="utf-8")
