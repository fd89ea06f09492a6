"""The report of a made-up study: every number of the analysis is in it, nothing is outside it, and a browser shows it.

The study has a setting whose truth is known, an equal one, one that diverges, one without runs and hostile names.
"""

import base64
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from math import inf, isfinite, log2, nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.container import ErrorbarContainer
from matplotlib.image import imread

from verify.fit.forward import Slope
from verify.fit.optimum import Estimate
from verify.studies.transfer.analysis import analyse, comparisons
from verify.studies.transfer.headline import answers, interval, together, transfers
from verify.studies.transfer.outcomes import SettingResult
from verify.studies.transfer.plots import best_loss_against_width, loss_lost_by_transfer, spread
from verify.studies.transfer.rate_plots import loss_against_rate
from verify.studies.transfer.report import write_report
from verify.sweeps.records import Conditions, Record, Setting, Study

CONDITIONS = Conditions("mlp", {"vocabulary": 256}, 64, 100, 256, 2048, "texts & <b>more</b>", "code 1")
WIDTHS = (64, 128, 256, 512)
HOSTILE = 'x"<script>alert(1)</script>&$_^{'
OTHER = "hidden=muon,<rest>=adam"
PICTURES = 4  # of every optimizer

Loss = Callable[[int, float, int], float]


def parabola(slope: float, bottom: float) -> Loss:
    """Best rate 2^0.2 (n / 64)^slope, and 0.01 nats between seeds."""
    return lambda n, x, seed: bottom + 6 / n + 0.01 * seed + 0.05 * (x - 0.2 - slope * log2(n / 64)) ** 2


def cliff(width: int, x: float, seed: int) -> float:
    """Training diverges an octave earlier whenever the width doubles, and for the last seed half an octave before."""
    return nan if x > 2.1 - log2(width / 64) - 0.5 * (seed == 2) else parabola(-0.9, 2.6)(width, x, seed)


def study_of(
    losses: dict[Setting, Loss],
    equal: dict[Setting, Setting] | None = None,
    widths: Sequence[int] = WIDTHS,
    seeds: int = 3,
    planned: int = 0,
) -> Study:
    records = [
        Record(
            setting.name, width, 2.0**x, seed, value, 7 if np.isnan(value) else None, (), 2.0, "cpu <1>", "2026-01-01"
        )
        for setting, loss in losses.items()
        for width in widths
        for x in np.arange(-5, 4)
        for seed in range(seeds)
        for value in [loss(width, float(x), seed)]
    ]
    settings = {setting.name: setting for setting in (*losses, *(equal or {}))}
    trained_as = {setting.name: source.name for setting, source in (equal or {}).items()}
    return Study(CONDITIONS, settings, trained_as, tuple(records), planned)


FULL, NONE, NTK = (
    Setting("adam", "SP", "full", ()),
    Setting("adam", "SP", "none", ()),
    Setting("adam", "NTK", "none", ()),
)
EMPTY, GLOBAL = Setting("adam", "muP", "prior", ()), Setting("adam", "SP", "global", ())
NAMED = Setting(OTHER, HOSTILE, "full", (), (1.0, 2.0, 0.5))


def whole() -> Study:
    made = {FULL: parabola(0.0, 2.3), NONE: parabola(-0.5, 2.2), GLOBAL: cliff, NAMED: parabola(-0.2, 2.4)}
    study = study_of(made, {NTK: NONE}, planned=600)
    return Study(CONDITIONS, {**study.settings, EMPTY.name: EMPTY}, study.trained_as, study.records, 600)


class Page(HTMLParser):
    """Rows of the table as (sorted by, shown) cells, all attributes, and the text outside of style and script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.attributes: list[tuple[str, str, str]] = []
        self.rows: list[list[list[str]]] = []
        self.text, self.scripts = "", ""
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag == "tr":
            self.rows.append([])
        if tag == "td":
            self.rows[-1].append([dict(attrs).get("data-value") or "", ""])

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("style", "script"):
            self.scripts += data
            return
        self.text += data
        if "td" in self.open:
            self.rows[-1][-1][1] += data

    def row(self, setting: Setting) -> list[list[str]]:
        (found,) = (row for row in self.rows if row and row[0][1] == setting.name)
        return found


@dataclass(frozen=True)
class Written:
    study: Study
    results: list[SettingResult]
    paths: list[Path]
    source: str
    page: Page = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "page", Page(self.source))


def report(study: Study, folder: Path) -> Written:
    paths = write_report(study, folder)
    return Written(study, analyse(study), paths, paths[0].read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return report(whole(), tmp_path_factory.mktemp("report"))


# The page


def test_every_setting_has_a_row_with_the_numbers_of_the_analysis(written: Written) -> None:
    assert sum(len(row) == 13 for row in written.page.rows) == len(written.results) == 6
    for each in written.results:
        cells = written.page.row(each.setting)
        at = {found.width: found for found in each.widths}
        missing = Estimate(nan, nan, nan)
        first, last = at.get(64), at.get(512)
        expected: list[float] = [
            first.best_rate if first else nan,
            last.best_rate if last else nan,
            each.drift.value,
            (last.best_loss if last else missing).value,
            (last.lost if last else missing).value,
            sum(found.diverged for found in each.widths) if each.widths else nan,
            nan if each.divergence_width is None else each.divergence_width,
            each.fit_error,
            each.sensitivity.value,
            each.penalty.value,
        ]
        assert [float(value or "nan") if value != "inf" else inf for value, _ in cells[2:12]] == pytest.approx(
            [value if isfinite(value) else nan for value in expected], rel=1e-12, nan_ok=True
        )
        for value, (_, shown) in zip(expected, cells[2:12], strict=True):
            number = re.match(r"-?[\d.]+(e-?\d+)?", shown)
            assert (number is not None) == isfinite(value)
            assert number is None or float(number.group()) == pytest.approx(value, rel=0.01, abs=0.001)
        assert cells[12][1] == "; ".join(each.notes)


def test_known_truths_are_shown(written: Written) -> None:
    """SP none drifts with -1/2 and ends lowest; SP global diverges at 512 at the best rate of width 64."""
    drift = written.page.row(NONE)[4]
    assert float(drift[0]) == pytest.approx(-0.5, abs=1e-9)
    assert drift[1].startswith("-0.5000 [-0.5000, -0.5000]")
    assert written.page.row(FULL)[4][1].startswith("0.0000 [")
    assert written.page.row(NTK)[1][1] == NONE.name
    assert written.page.row(NTK)[2:12] == written.page.row(NONE)[2:12]
    assert written.page.row(GLOBAL)[6][1] == "\u2013 diverges"
    assert written.page.row(GLOBAL)[8][1] == "512"
    assert written.page.row(EMPTY)[4] == ["", "\u2013"]
    for said in (
        "6 settings (5 distinct, 1 equal to one of those step for step), 4 widths, 3 seeds, 432 runs",
        "In progress: 432 of the 600 runs planned",
        "1 setting without a run yet",
        "At width 512, SP none = NTK none ends lowest",
        "At the smallest width's best rate, training fails for SP global from width 512",
        "transfers for SP full (0.0000",
        "the best is SP global",
    ):
        assert said in written.page.text


def test_what_is_not_known_says_why(written: Written) -> None:
    reasons = [value for tag, name, value in written.page.attributes if (tag, name) == ("abbr", "title")]
    shown = sum(cell[1].startswith("\u2013") for row in written.page.rows if len(row) == 13 for cell in row)
    assert len(reasons) == shown > 8
    assert all(reasons)
    assert any("diverges at or beside the best rate of width 64" in reason for reason in reasons)


def test_names_are_text_and_nothing_is_fetched(written: Written) -> None:
    assert HOSTILE in written.page.text
    assert OTHER in written.page.text
    assert "alert(1)" not in written.page.scripts
    assert written.page.text.count("texts & <b>more</b>") == 1
    links = [value for _, name, value in written.page.attributes if name in ("src", "href", "srcset", "action", "data")]
    assert links
    assert all(link.startswith("data:") for link in links)
    assert not re.search(r"url\(|@import|https?:|fetch|import\(", written.page.scripts)
    pictures = [link for link in links if link.startswith("data:image/svg+xml;base64,")]
    assert len(pictures) == 2 * PICTURES
    for link in pictures:
        drawing = base64.b64decode(link.partition(",")[2], validate=True).decode()
        assert set(re.findall(r'href="(.)', drawing)) <= {"#"}
        assert "<image" not in drawing


def test_every_picture_is_a_file_too(written: Written) -> None:
    page, *pictures = written.paths
    assert page.name == "report.html"
    assert sorted(path.name for path in page.parent.iterdir()) == sorted(path.name for path in written.paths)
    assert [path.suffix for path in pictures] == [".png", ".pdf"] * (2 * PICTURES)
    for path in pictures:
        assert path.read_bytes().startswith(b"\x89PNG" if path.suffix == ".png" else b"%PDF")
        assert path.suffix == ".pdf" or imread(path).std() > 0.01
        assert re.fullmatch(r"[\w.-]+", path.name)


def diverging(_width: int, _x: float, _seed: int) -> float:
    return nan


@pytest.mark.parametrize(
    ("study", "says"),
    [
        (study_of({FULL: parabola(0.0, 2.3)}, widths=(64, 128), seeds=1), "undecided"),
        pytest.param(study_of({FULL: parabola(0.0, 2.3)}, widths=(64,)), "SP full ends lowest", marks=pytest.mark.slow),
        (study_of({FULL: diverging}, {NTK: FULL}), "No setting has a best loss at width 512"),
        (study_of({FULL: parabola(0.0, 2.3)}, widths=()), "No run is finished yet"),
    ],
    ids=["one seed", "one width", "all diverged", "no run"],
)
def test_small_unfinished_and_diverged_studies_have_a_page(study: Study, says: str, tmp_path: Path) -> None:
    found = report(study, tmp_path)
    assert says in found.page.text
    for setting in study.settings.values():
        assert len(found.page.row(setting)) == 13
    assert all(path.stat().st_size for path in found.paths)


# Sentences


@pytest.mark.parametrize(
    ("low", "value", "high", "verdict"),
    [
        (-0.02, 0.01, 0.04, True),
        (0.05, 0.06, 0.07, True),
        (-0.6, -0.5, -0.4, False),
        (-0.4, 0.0, 0.4, None),
        (-1.9, -1.6, -1.3, False),
        (nan, 0.0, nan, None),
    ],
)
def test_transfer_is_0_in_the_interval_or_little_and_undecided_where_it_is_wide(
    low: float, value: float, high: float, verdict: bool | None
) -> None:
    assert transfers(Slope(value, low, high, ())) is verdict


def test_intervals_are_written_with_the_decimals_that_they_support() -> None:
    assert interval(Estimate(0.41234, 0.39134, 0.43334)) == "0.412 [0.391, 0.433]"
    assert interval(Estimate(-0.001, -0.2, 0.198)) == "0.00 [-0.20, 0.20]"
    assert interval(Estimate(2.5, nan, nan)) == "2.500"


def test_settings_that_train_alike_share_a_label() -> None:
    ntk = Setting("adam", "NTK", "global", (), (1.0, 2.0, 0.5))
    assert together([NONE, ntk, NTK]) == "SP none = NTK global x 1,2,0.5/none"


def test_answers_name_what_earlier_assumptions_cost() -> None:
    """muP is 0.1 above the best of all, prior the best itself."""
    losses = {
        Setting("adam", "muP", "full", ()): parabola(0.0, 2.4),
        Setting("adam", "SP", "prior", ()): parabola(0.0, 2.3),
    }
    results = analyse(study_of(losses))
    said = dict(answers(comparisons(results)[0], results))
    assert (
        "With muP alone, the best is muP full, 0.1000 [0.1000, 0.1000] nats above the best of all"
        in (said["Earlier assumptions"])
    )
    assert "prior), the best is SP prior, the best of all itself" in said["Earlier assumptions"]
    assert "None of 216 runs diverged" in said["Divergence"]


# Pictures


def of_adam() -> tuple[Study, list[SettingResult]]:
    study = whole()
    return study, [each for each in analyse(study) if each.setting.optimizer == "adam"]


def test_every_divergence_is_marked_and_none_flattens_the_curves() -> None:
    study, results = of_adam()
    figure = loss_against_rate(results, study.untrained_loss)
    axes = {axis.get_title().split("\n")[0]: axis for axis in figure.axes if axis.axison}
    crosses = {name: [line for line in axis.lines if line.get_marker() == "x"] for name, axis in axes.items()}
    assert all(axis.get_ylim()[1] < 3.5 for axis in axes.values())
    expected = {(record.width, record.base_rate) for record in study.divergences()}
    assert len(crosses[GLOBAL.name.removeprefix("adam ")]) == len(expected) > 10
    curves = [line.get_xydata() for line in axes["SP global"].lines if line.get_linestyle() == "-"]
    drawn = sum(int(np.isfinite(points[:, 1]).sum()) for points in map(np.asarray, curves) if len(points) == 9)
    assert drawn == 9 * len(WIDTHS) - len(expected)  # no mean over the seeds that are left
    partial = sum((line.get_alpha() or 1) < 1 for line in crosses["SP global"])
    assert 0 < partial < len(expected)
    assert not crosses["SP full"]
    assert "SP none = NTK none" in crosses and not any(name.startswith("NTK") for name in crosses)


def test_an_explosion_does_not_flatten_the_curves() -> None:
    exploding: Loss = lambda n, x, seed: 1e6 if x > 1 else parabola(0.0, 2.3)(n, x, seed)  # noqa: E731
    study = study_of({FULL: exploding})
    (axis,) = loss_against_rate(analyse(study), study.untrained_loss).axes
    assert axis.get_ylim()[1] < 3.5
    assert sum(line.get_marker() == "^" for line in axis.lines) == 2 * len(WIDTHS)


@pytest.mark.parametrize("draw", [best_loss_against_width, loss_lost_by_transfer])
def test_settings_that_train_alike_are_one_line_with_all_names(draw: Callable[..., Any]) -> None:
    _, results = of_adam()
    (axis,) = draw(results).axes
    lines = [each for each in axis.containers if isinstance(each, ErrorbarContainer)]
    assert len(lines) == 3
    labels = [text.get_text() for text in axis.texts]
    assert "SP none = NTK none" in labels
    assert len(labels) == 3
    crosses = [line for line in axis.lines if line.get_marker() == "x"]
    assert bool(crosses) == (draw is loss_lost_by_transfer)


def test_labels_are_moved_apart_by_least_squares() -> None:
    assert spread([0.1, 0.5, 0.9], 0.1) == pytest.approx([0.1, 0.5, 0.9])
    assert spread([0.5, 0.5], 0.1) == pytest.approx([0.45, 0.55])
    assert spread([0.98, 0.99, 1.0], 0.1) == pytest.approx([0.8, 0.9, 1.0])
    assert spread([0.0, 0.3, 0.3, 0.3], 0.1) == pytest.approx([0.0, 0.2, 0.3, 0.4])
    assert spread([], 0.1) == []


# In a browser


def browser() -> str | None:
    """A Chromium that starts; Ubuntu's package is a stub that does not, where there is no snap."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        path = shutil.which(name)
        if path and subprocess.run([path, "--version"], capture_output=True, timeout=60).returncode == 0:
            return path
    return None


# What the page is, as the browser sees it once all is loaded; a click sorts by drift, a second one the other way round.
LOOK = """<script>addEventListener("load", () => {
  const images = [...document.images], heading = document.querySelectorAll("#settings th")[4];
  const drifts = () => [...document.querySelectorAll("#settings tbody tr")].map(row => row.cells[4].dataset.value);
  const seen = {images: images.length, drawn: images.filter(each => each.naturalWidth > 100).length};
  seen.before = drifts(); heading.click(); seen.up = drifts(); heading.click(); seen.down = drifts();
  document.title = "seen" + JSON.stringify(seen);
})</script>"""


def complaints(source: str, folder: Path, program: str) -> list[str]:
    """What is wrong with a page in a browser; nothing where pictures show, the table sorts and no error is logged."""
    path, screenshot = folder / "looked-at.html", folder / "screenshot.png"
    path.write_text(source.replace("</body>", f"{LOOK}</body>"), encoding="utf-8")
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0"]
    options += [f"--user-data-dir={folder / 'profile'}", "--host-resolver-rules=MAP * ~NOTFOUND", "--dump-dom"]
    options += [f"--screenshot={screenshot}", "--window-size=1300,2000", path.as_uri()]
    ran = subprocess.run([program, *options], capture_output=True, text=True, timeout=120)
    found = [line for line in ran.stderr.splitlines() if "CONSOLE" in line]
    title = re.search(r"<title>seen(.*?)</title>", ran.stdout)
    if title is None:
        return [*found, "the page did not load"]
    seen = json.loads(title.group(1))
    if seen["drawn"] != seen["images"] or seen["images"] != 2 * PICTURES:
        found.append(f"{seen['drawn']} of {seen['images']} pictures show")
    known = sorted((float(value) for value in seen["before"] if value), reverse=True)
    unknown = [""] * seen["before"].count("")
    if len(seen["before"]) != 6:
        found.append(f"{len(seen['before'])} rows")
    if seen["down"] != [*map(repr, known), *unknown] or [float(each) for each in seen["up"] if each] != known[::-1]:
        found.append(f"the table does not sort: {seen}")
    if not screenshot.exists() or imread(screenshot).std() < 0.01:
        found.append("nothing is to be seen")
    return found


@pytest.fixture(scope="module")
def chromium() -> str:
    found = browser()
    if found is None:
        pytest.skip("no chromium, chromium-browser or google-chrome that starts; install one to see the page in it")
    return found


def test_the_page_shows_in_a_browser(written: Written, chromium: str, tmp_path: Path) -> None:
    assert complaints(written.source, tmp_path, chromium) == []


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        pytest.param("<script>", "<script>absent();", "CONSOLE", marks=pytest.mark.slow),
        ("<script>", "<script>console.error('wrong');", "CONSOLE"),
        ("base64,", "base64,AAAA", "pictures show"),
        ('.addEventListener("click"', '.addEventListener("nothing"', "does not sort"),
        ("<body>", "<body hidden>", "to be seen"),
    ],
)
def test_a_broken_page_is_noticed(
    written: Written, chromium: str, tmp_path: Path, old: str, new: str, complaint: str
) -> None:
    assert old in written.source
    found = complaints(written.source.replace(old, new, 1), tmp_path, chromium)
    assert any(complaint in each for each in found), found
