"""What mkdocs does here beside its own: pages out of files at the root, their links, and reference out of the code."""

from __future__ import annotations

import re

import links
import reference
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ASKED = re.compile(r"""<(?:script|img|iframe)\b[^>]*\bsrc="?(?:https?:)?//|<link\b[^>]*\bhref="?(?:https?:)?//""")
log = get_plugin_logger("hooks")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Pages out of files at the repository's root."""
    for source, page in links.AT_ROOT.items():
        files.append(File.generated(config, page, content=(links.ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """A page with its generated parts, and with links that are right in the site."""
    markdown = links.move_links(markdown, page.file.src_uri, config.extra["repository"])
    for name, make in reference.PARTS.items():
        if (mark := f"<!-- {name} -->") in markdown:
            markdown = markdown.replace(mark, make())
    return markdown


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """The page as it is; a warning, which is an error in `make docs`, where opening it would ask another host."""
    if found := ASKED.search(output):
        log.warning("%s asks another host: %s", page.file.dest_uri, output[found.start() : found.start() + 100])
    return output
