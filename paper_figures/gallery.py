"""The gallery: one page that shows every table and figure with what was claimed and what was found."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl

from paper_figures.items import Item
from paper_figures.paths import GALLERY, ROOT, STYLE
from paper_figures.sentences import SENTENCES

PAGE = ROOT / "README.md"
HEAD = """# Every table and figure

Made by `make figures` (`python -m paper_figures`) from `derive` and from the results in [data](data): nothing is
trained, nothing is looked up. Each is written to `paper_figures/out/` as PDF and PNG, tables as LaTeX, Markdown and
CSV. `python -m paper_figures figure_2` makes one of them, `--gallery` this page; `make figures RERUN=1 SCALE=cpu` (or
`gpu`) first runs the studies again, and goes on where it was interrupted. Claims are those of Everett et al. 2024,
[arXiv 2407.05872](https://arxiv.org/abs/2407.05872), or follow from its theory (table 8, figures 8 to 12), in our
words; scales are ours. Figure 10 is what an adopted run of `python -m benchmarks.accelerator` found.

| | what | verdict |
|---|---|---|
"""
LONG = 16
"""Rows above which a table is folded."""


def page(items: Mapping[str, Item]) -> str:
    """The page as Markdown, with its pictures beside it in gallery/."""
    lines = [
        f"| [{_label(name)}](#{_anchor(name)}) | {item.title} | {item.verdict} |\n" for name, item in items.items()
    ]
    return HEAD + "".join(lines) + "".join(_section(name, item) for name, item in items.items())


def write(items: Mapping[str, Item]) -> None:
    """Write the page and its pictures."""
    GALLERY.mkdir(exist_ok=True)
    wanted: set[Path] = set()
    for item in items.values():
        for name, figure in item.figures.items():
            wanted.add(GALLERY / f"{name}.png")
            with mpl.rc_context(fname=STYLE):
                figure.savefig(GALLERY / f"{name}.png", dpi=90, metadata={"Software": None})
    for path in set(GALLERY.glob("*.png")) - wanted:
        path.unlink()
    PAGE.write_text(page(items), encoding="utf-8")


def _label(name: str) -> str:
    kind, number, *_ = name.split("_")
    return f"{kind.capitalize()} {number}"


def _anchor(name: str) -> str:
    return _label(name).lower().replace(" ", "-")


def _section(name: str, item: Item) -> str:
    parts = [f"\n## {_label(name)}\n\n**{item.title}.** {item.paragraph()}\n"]
    for picture in item.figures:
        said = f"\n*{SENTENCES[picture]}*\n" if picture in SENTENCES else ""
        parts.append(f"\n![{item.title}](gallery/{picture}.png)\n{said}")
    for key, table in item.tables.items():
        shown = table.markdown()
        if item.figures or len(table.rows) > LONG or len(item.tables) > 1:
            shown = f"<details><summary>{key}: {len(table.rows)} rows</summary>\n\n{shown}\n</details>\n"
        parts.append(f"\n{shown}")
    return "".join(parts)
