"""Items of the paper from the committed data, built once in a process, whatever files of tests ask for them."""

from functools import cache
from pathlib import Path

from paper_figures.build import build as build_anew
from paper_figures.items import Item
from paper_figures.paths import DATA


@cache
def _committed(name: str) -> Item:
    return build_anew(name)


def build(name: str, data: Path = DATA) -> Item:
    """As `paper_figures.build.build`; of other data, anew."""
    return _committed(name) if data == DATA else build_anew(name, data)
