"""A grid of widths and depths: how the best rate goes along the width at every depth, and along depth at every width.

A study's own axis is depth, and its settings are there once for every width; their runs are those of the other axis
too.
"""

from dataclasses import replace

from derive.emit import terminal_table
from verify.studies.transfer.analysis import analyse_setting, losses_of, rows_json
from verify.studies.transfer.outcomes import SettingResult
from verify.sweeps.records import Setting, Study
from verify.values import Document


def along_width(study: Study) -> dict[int, list[SettingResult]]:
    """By depth, every setting along its widths; empty for a study of one width."""
    families: dict[str, dict[int, str]] = {}
    for key, setting in study.settings.items():
        if setting.across is not None:
            families.setdefault(_bare(setting).name, {})[setting.across.width] = key
    depths = sorted({record.width for record in study.records})
    return {depth: [_at_depth(study, depth, members) for members in families.values()] for depth in depths if families}


def _bare(setting: Setting) -> Setting:
    return replace(setting, across=None)


def _at_depth(study: Study, depth: int, members: dict[int, str]) -> SettingResult:
    runs = {width: study.runs(key, depth) for width, key in sorted(members.items())}
    made = {width: each for width, each in runs.items() if each}
    seeds = tuple(sorted({seed for rates in made.values() for each in rates.values() for seed in each}))
    tables = {width: losses_of(study, members[width], depth, seeds) for width in made}
    return analyse_setting(_bare(study.settings[next(iter(members.values()))]), seeds, tables, study.untrained_loss)


def grid_json(study: Study) -> list[Document]:
    """The rows along the width, with the depth at which they are."""
    found = along_width(study)
    return [{"depth": depth, **row} for depth, results in found.items() for row in rows_json(results)]


def grid_table(study: Study) -> str:
    """A line per setting and depth: the drift along the width; empty for a study of one width."""
    rows, sections = [], []
    for depth, results in along_width(study).items():
        sections.append(len(rows))
        for each in results:
            at = {found.width: found.best_rate for found in each.widths}
            ends = [f"{at[width]:.3g}" if width in at and at[width] == at[width] else "-" for width in _ends(study)]
            drift = [f"{value:+.2f}" if value == value else "-" for value in (each.drift.value, each.drift.low)]
            high = f"{each.drift.high:+.2f}" if each.drift.high == each.drift.high else "-"
            rows.append([str(depth), each.setting.name, *ends, drift[0], f"{drift[1]} .. {high}"])
    if not rows:
        return ""
    first, last = _ends(study)
    columns = ["depth", "setting", f"best rate at width {first}", f"at {last}", "drift", "95 % interval"]
    return f"along the width: best rate ~ n^drift\n{terminal_table(columns, rows, sections)}\n"


def _ends(study: Study) -> tuple[int, int]:
    widths = [each.across.width for each in study.settings.values() if each.across is not None]
    return min(widths), max(widths)
