"""Hook of mkdocs: the README is the first page, and the pages of benchmarks/ are part of the site."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
INDEX = "index.md"
KINDS = (".md", ".json", ".png", ".jpg")  # of results


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add README.md as the first page, LICENSE, and what lies in benchmarks/ as pages."""
    added = {"README.md": INDEX, "LICENSE": "LICENSE", "benchmarks/README.md": "benchmarks/README.md"}
    added |= {f"benchmarks/results/{path.name}": f"benchmarks/results/{path.name}"
              for path in sorted((ROOT / "benchmarks/results").iterdir()) if path.suffix in KINDS}
    for source, target in added.items():
        files.append(File.generated(config, target, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, *, page, config: MkDocsConfig, files: Files) -> str:
    """Links between the README, docs/ and benchmarks/ as they lie in the site, where docs/ is the root."""
    source = page.file.src_uri
    if source == INDEX:
        return re.sub(r"\]\(docs/", "](", markdown)
    return re.sub(r"\]\(\.\./docs/", "](../", markdown) if source.startswith("benchmarks/") else re.sub(
        r"\]\(\.\./benchmarks/", "](benchmarks/", markdown)
