"""What mkdocs does to the pages: those of the root join them, and links that leave the site become plain paths.

The pages are written to be read where they lie as well, so that they link into the source.
"""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from derive.explore import page

ROOT = Path(__file__).parent.parent
FROM_ROOT = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!\w+:|#)([^)]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page to play with, and those of the root under names of their own, their links as from within docs/."""
    for source, name in FROM_ROOT.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        text = re.sub(r"\]\((?!\w+:|#|docs/)", "](../", text).replace("](docs/", "](")
        files.append(File.generated(config, name, content=text))
    files.append(File.generated(config, "explore.html", content=page()))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Turn links to files outside docs/ into their paths, but for those to pages that joined."""
    return LINK.sub(_inside, markdown)


def _inside(link: re.Match[str]) -> str:
    words, target = link.groups()
    if not target.startswith("../"):
        return link[0]
    path = target.removeprefix("../")
    if path in FROM_ROOT:
        return f"[{words}]({FROM_ROOT[path]})"
    return f"`{path}`" if words.strip("`") in path else f"{words} (`{path}`)"
