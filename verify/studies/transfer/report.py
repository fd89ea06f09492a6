"""One page on a transfer study: its pictures, what it answers, a row per setting, and how each number is defined."""

import base64
import io
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from verify.studies.pictures import save
from verify.studies.transfer.analysis import analyse, comparisons
from verify.studies.transfer.headline import answers, overview
from verify.studies.transfer.outcomes import SettingResult
from verify.studies.transfer.plots import LOOK, best_loss_against_width, best_rate_against_width, loss_lost_by_transfer
from verify.studies.transfer.rate_plots import loss_against_rate
from verify.studies.transfer.report_table import columns_of, definitions, table
from verify.studies.transfer.text import used_text
from verify.sweeps.axes import AXES
from verify.sweeps.records import Study

PAGE = "report.html"
LOOK_OF_PAGE = """
:root { color-scheme: light dark; --text: #202020; --faint: #5f5f5f; --page: #ffffff; --line: #dcdcdc; --head: #f4f4f4 }
@media (prefers-color-scheme: dark) {
  :root { --text: #e4e4e4; --faint: #a6a6a6; --page: #161616; --line: #3a3a3a; --head: #242424 }
  img { filter: invert(0.92) hue-rotate(180deg) }
}
body { font: 15px/1.45 system-ui, sans-serif; color: var(--text); background: var(--page);
  max-width: 78rem; margin: 1.5rem auto; padding: 0 1rem; overflow-wrap: anywhere }
h1 { font-size: 1.5rem } h2 { font-size: 1.2rem; margin-top: 2.2rem } h3 { font-size: 1rem; margin-bottom: 0.2rem }
.lead { font-size: 1.05rem } li { margin: 0.25rem 0 } ul { margin-top: 0.2rem }
.wide { overflow: auto; max-height: 80vh; border: 1px solid var(--line); margin-top: 0.6rem }
table { border-collapse: collapse; font-size: 12.5px; font-variant-numeric: tabular-nums }
th, td { text-align: left; vertical-align: top; padding: 0.25rem 0.4rem; border-bottom: 1px solid var(--line) }
.wide td { overflow-wrap: normal } .wide td:last-child { min-width: 12rem }
.wide td:first-child { position: sticky; left: 0; background: var(--page) }
.wide th { z-index: 1; position: sticky; top: 0; background: var(--head); cursor: pointer; overflow-wrap: normal }
th[aria-sort=ascending]::after { content: " \\2191" } th[aria-sort=descending]::after { content: " \\2193" }
abbr { text-decoration: none; color: var(--faint); cursor: help } .equal { color: var(--faint) }
#repeats:not(:checked) ~ .wide .equal { display: none }
figure { margin: 1.2rem 0 2rem } img { max-width: 100%; height: auto } figcaption { max-width: 60rem }
dt { font-weight: 600; margin-top: 0.6rem } dd { margin-left: 1.2rem; max-width: 60rem }
@media (max-width: 700px) {
  .wide { max-height: none } .wide thead { display: none } .wide tr, .wide td { display: block; padding: 0.1rem 0.4rem }
  .wide td { border: 0 } .wide tr { border-bottom: 1px solid var(--line); padding: 0.5rem 0 }
  .wide td:first-child { position: static; font-weight: 600 }
  .wide td:not(:first-child)::before { content: attr(data-of) ": "; color: var(--faint) }
}
"""
SORT = """
for (const heading of document.querySelectorAll("#settings th")) heading.addEventListener("click", () => {
  const down = heading.getAttribute("aria-sort") === "ascending", body = document.querySelector("#settings tbody");
  const key = row => row.cells[heading.cellIndex].dataset.value;
  for (const other of heading.parentNode.cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", down ? "descending" : "ascending");
  const order = (a, b) => isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b;
  body.append(...[...body.rows].sort((one, two) => {
    const a = key(one), b = key(two);
    return a === "" || b === "" ? (a === "") - (b === "") : (down ? -1 : 1) * order(a, b);
  }));
});
"""


def write_report(study: Study, folder: Path) -> list[Path]:
    """Write report.html, with all pictures in it, and every picture as PNG and PDF; return what was written.

    The page needs no other file and no network. A study in progress gives what its runs allow.
    """
    folder.mkdir(parents=True, exist_ok=True)
    results = analyse(study)
    compared = comparisons(results)
    written: list[Path] = []
    said: list[str] = []
    drawn: list[str] = []
    for slug, comparison in zip(_slugs([each.title for each in compared]), compared, strict=True):
        own = comparison.of(results)
        name = escape(comparison.title)
        found = (f"<li><b>{escape(topic)}.</b> {escape(answer)}</li>" for topic, answer in answers(comparison, own))
        said.append(f"<h3>{name}</h3><ul>{''.join(found)}</ul>")
        drawn.append(f"<h2>Pictures: {name}</h2>")
        for kind, (figure, caption) in _pictures(own, study.untrained_loss).items():
            path = folder / f"{kind}_{slug}"
            with mpl.rc_context(LOOK):
                figure.draw_without_rendering()
                figure.set_layout_engine("none")  # laid out once, and written three times
                save(figure, path)
                drawn.append(_inline(figure, f"{comparison.title}: {caption}", path.name))
            written += [path.with_suffix(".png"), path.with_suffix(".pdf")]
    columns = columns_of(results)
    optimizers = dict.fromkeys(setting.optimizer for setting in study.settings.values())
    title = f"Learning-rate transfer: {study.conditions.model}, {', '.join(optimizers)}"
    body = [
        f"<h1>{escape(title)}</h1><p class='lead'>{escape(overview(study, results, compared))}</p>",
        *drawn,
        "<h2>What the study answers</h2>" if said else "<p>No run is finished yet.</p>",
        *said,
        "<h2>All settings</h2><p>In brackets: 95 % intervals over seeds. A dash is a number that is not known; the"
        " notes say why. Click on a heading to sort.</p>",
        table(columns, results),
        f"<h2>Conditions</h2>{_conditions(study)}",
        f"<h2>How the numbers are defined</h2>{definitions(columns, study)}",
    ]
    page = folder / PAGE
    page.write_text(_page(title, "\n".join(body)), encoding="utf-8")
    return [page, *written]


def _page(title: str, body: str) -> str:
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title><style>{LOOK_OF_PAGE}</style></head>\n'
        f"<body>\n{body}\n<script>{SORT}</script>\n</body></html>\n"
    )


def _slugs(names: Iterable[str]) -> list[str]:
    """Names as they can stand in file names, each different."""
    slugs: list[str] = []
    for name in names:
        slug = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[:40] or "optimizer"
        slugs.append(slug if slug not in slugs else f"{slug}-{len(slugs) + 1}")
    return slugs


def _pictures(results: Sequence[SettingResult], untrained_loss: float) -> dict[str, tuple[Figure, str]]:
    """Figure and caption by name."""
    axis = results[0].axis
    return {
        "loss_against_rate": (
            loss_against_rate(results, untrained_loss),
            f"loss against base rate, a curve per {axis} (mean over seeds, with its standard error), and the fitted"
            f" best rates, joined. The dotted line is the best rate of the smallest {axis}: a setting transfers if all"
            " minima are on it. Crosses at the top are diverged runs, triangles end worse than untrained. Settings that"
            " train alike, step for step, share a panel.",
        ),
        "best_rate": (
            best_rate_against_width(results),
            f"best base rate against {axis}, with 95 % intervals, and the fitted power law; the exponent is the drift.",
        ),
        "best_loss": (
            best_loss_against_width(results),
            f"loss at the best rate of each {axis}, with 95 % intervals. Settings that train alike are one line. Seeds"
            " differ alike in all settings: differences between settings are known better than the intervals suggest.",
        ),
        "lost": (
            loss_lost_by_transfer(results),
            f"loss paid at each {axis} for using the best rate of the smallest one; crosses at the top diverge.",
        ),
    }


def _inline(figure: Figure, caption: str, name: str) -> str:
    """The figure as SVG inside the page: an image of its own, because pictures share the ids of their parts."""
    drawing = io.BytesIO()
    figure.savefig(drawing, format="svg", metadata={"Date": None})
    data = base64.b64encode(drawing.getvalue()).decode()
    text = escape(caption)
    files = f"<small>({escape(name)}.png, .pdf)</small>"
    image = f'<img alt="{text}" src="data:image/svg+xml;base64,{data}">'
    return f"<figure>{image}<figcaption>{text} {files}</figcaption></figure>"


def _conditions(study: Study) -> str:
    given, along = study.conditions.content(), AXES[study.conditions.axis]
    given["steps"] = ", ".join(map(str, study.horizons))
    if used := study.uses():
        given["windows"] = f"{given['windows']} disjoint ones; {used_text(used)}"
    table_of_runs = given["model"]
    sizes = ", ".join(f"{name.replace('_', ' ')} {size}" for name, size in given.pop("sizes").items())
    records = study.records
    devices = Counter(each.device or "not stated" for each in records)
    dates = sorted(each.finished for each in records if each.finished)
    usual = {"epsilon": "the optimizer's usual one", "clip": "none"}
    rows = {
        "model": f"{given.pop('model')} ({sizes})",
        **{
            name.replace("_", " "): usual.get(name, "none") if value is None else value for name, value in given.items()
        },
        along.many: ", ".join(map(str, sorted({each.width for each in records}))),
        "seeds": ", ".join(map(str, sorted({each.seed for each in records}))),
        "runs": f"{len(records)} finished of {max(study.planned, len(records))} planned so far",
        "devices": "; ".join(f"{device}: {count} runs" for device, count in devices.most_common()),
        "training time": f"{sum(each.seconds for each in records) / 3600:.2f} hours in all runs",
        "finished": f"{dates[0]} to {dates[-1]}" if dates else "not stated",
        "untrained loss": f"{study.untrained_loss:.3f} nats, ln(vocabulary)",
    }
    if not study.conditions.sizes:  # runs that others made: what their table does not say is not said here either
        rows = {"table": table_of_runs} | {name: rows[name] for name in (along.many, "seeds", "runs")}
    cells = (f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>" for name, value in rows.items())
    return f"<table>{''.join(cells)}</table>"
