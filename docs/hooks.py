"""What MkDocs calls as it builds the site: the reference is made from the registries, and never written to a file."""

from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from reference_pages.pages import PAGES, filled


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the generated pages."""
    for place, page in PAGES.items():
        files.append(File.generated(config, place, content=page()))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Puts generated blocks in place of their marks."""
    return filled(markdown)
