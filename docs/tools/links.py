"""Links of pages that are right where they are read, in the repository, made right in the site.

There pages are elsewhere, and files that are no pages are not there: a link to one goes to the repository on the web,
or becomes text with the file's path. A link that leads nowhere is left as it is, so that mkdocs complains of it.
"""

from __future__ import annotations

import re
from pathlib import Path
from posixpath import dirname, join, normpath, relpath

ROOT = Path(__file__).resolve().parent.parent.parent
AT_ROOT = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
# A block or words of code, in which nothing is a link, or a link; whichever begins first.
PIECE = re.compile(
    r"^(?P<fence>```+).*?^(?P=fence)$|(?P<tick>`+)(?!`).*?(?<!`)(?P=tick)(?!`)"
    r"|(?P<image>!?)\[(?P<words>[^\]]*)\]\((?P<url>[^)\s]+)\)",
    re.MULTILINE | re.DOTALL,
)


def find_source(page: str) -> str:
    """The file of the repository that a page is made of, both as paths."""
    return next((source for source, made in AT_ROOT.items() if made == page), f"docs/{page}")


def move_links(markdown: str, page: str, repository: str) -> str:
    """Markdown of a page of the site, named by its path in docs/; `repository`, an address, may be empty."""
    source = find_source(page)

    def move(piece: re.Match[str]) -> str:
        image, words, url = piece["image"], piece["words"], piece["url"]
        if url is None or url.startswith("#") or re.match(r"[a-z]+:", url):
            return piece[0]
        path, hash_, anchor = url.partition("#")
        target = normpath(join(dirname(source), path))
        made = AT_ROOT.get(target) or (target.removeprefix("docs/") if target.startswith("docs/") else "")
        if made:
            return f"{image}[{words}]({relpath(made, dirname(page) or '.')}{hash_}{anchor})"
        if not (ROOT / target).exists():
            return piece[0]
        if repository:
            return f"[{words}]({repository.rstrip('/')}/blob/HEAD/{target}{hash_}{anchor})"
        return words if words.strip("`/") == target else f"{words} (`{target}`)"

    return PIECE.sub(move, markdown)
