"""A transfer study as text: the JSON contract, the table of results, and the table of what is done so far."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from derive.emit import terminal_table
from verify.studies.transfer.analysis import rows_json
from verify.studies.transfer.grid import grid_json, grid_table
from verify.studies.transfer.outcomes import SettingResult, WidthResult
from verify.sweeps.axes import AXES
from verify.sweeps.records import Conditions, Record, Setting, Study
from verify.values import Document


def as_json(study: Study, results: Sequence[SettingResult]) -> Document:
    """The JSON contract of every verify command, with the study's conditions and one row per setting."""
    rows = rows_json(results)
    if any(each.setting.steps for each in results):
        usual = study.conditions.steps
        rows = [{**row, "steps": each.setting.steps or usual} for row, each in zip(rows, results, strict=True)]
    rows = [
        row if each.setting.across is None else {**row, "width": each.setting.across.width}
        for row, each in zip(rows, results, strict=True)
    ]
    grid = grid_json(study)
    return {
        "schema": 1,
        "command": "transfer",
        "device": "; ".join(dict.fromkeys(record.device for record in study.records)),
        "corpus": study.conditions.corpus,
        "conditions": study.conditions.content(),
        "runs": len(study.records),
        "rows": rows,
        **({"along_width": grid} if grid else {}),
    }


def table(study: Study, results: Sequence[SettingResult]) -> str:
    """One line per setting: drift of the best rate, best losses, and what transferring the smallest width's costs."""
    widths = sorted({record.width for record in study.records})
    if not widths:
        return "nothing has been trained\n"
    first, last = widths[0], widths[-1]
    rows, sections = [], []
    for index, each in enumerate(results):
        before, setting = results[max(0, index - 1)].setting, each.setting
        if not index or _together(before) != _together(setting):
            sections.append(len(rows))
        at = {found.width: found for found in each.widths}
        rows.append(
            [
                each.setting.name,
                _rate(at.get(first)),
                _rate(at.get(last)),
                _number(each.drift.value, "+.2f"),
                f"{_number(each.drift.low, '+.2f')} .. {_number(each.drift.high, '+.2f')}",
                _number(at[last].best_loss.value, ".3f") if last in at else "-",
                _number(at[last].lost.value, ".3f") if last in at else "-",
                str(sum(found.diverged for found in each.widths) or ""),
                f"= {each.trained_as}" if each.trained_as else "",
            ]
        )
    columns = ["setting", f"best rate at {first}", f"at {last}", "drift", "95 % interval"]
    columns += [f"loss at {last}", "lost by transfer", "diverged", "trains like"]
    kept = [index for index in range(len(columns)) if index < 7 or any(row[index] for row in rows)]
    columns, rows = [columns[index] for index in kept], [[row[index] for index in kept] for row in rows]
    seeds, conditions = len({record.seed for record in study.records}), study.conditions
    along = AXES[conditions.axis]
    heading = (
        f"{conditions.model}, {along.many} {','.join(map(str, widths))}, {seeds} seeds, "
        f"{', '.join(map(str, study.horizons))} steps, {len(study.records)} runs; {conditions.corpus}\n"
        f"drift: best rate ~ {along.letter}^drift, 0 is perfect transfer; lost: nats paid at {last} for using the "
        f"best rate of {first}\n"
    )
    used = study.uses()
    heading += f"{used_text(used)}\n" if used else ""
    heading += f"{held_text(conditions)}\n" if conditions.held else ""
    return f"{heading}{terminal_table(columns, rows, sections)}\n{grid_table(study)}"


def _together(setting: Setting) -> tuple[str, int | None, str | None]:
    """What rows of one section share."""
    return setting.optimizer, setting.steps, setting.across and setting.across.label


def used_text(uses: Mapping[int, float]) -> str:
    """Such as "the training text is used 0.43 times in 1500 steps, 4.3 in 15000"."""
    times = ", ".join(f"{use:.2g} in {steps}" for steps, use in uses.items())
    return f"the training text is used {times.replace(' in', ' times in', 1)} steps"


def held_text(conditions: Conditions) -> str:
    """What every size is trained for, in words."""
    if conditions.held == "ratio":
        return (
            f"tokens grow as parameters of hidden layers: steps are those at width {conditions.base_width}, times n^2"
        )
    if conditions.held == "tokens":
        return f"tokens held: steps are those at batch {conditions.base_width}, and fewer at larger ones; betas held"
    return "steps held: larger batches are trained on more text; betas held"


def _rate(found: WidthResult | None) -> str:
    return "-" if found is None else _number(found.best_rate, ".3g")


def _number(value: float, form: str) -> str:
    return "-" if value != value else format(value, form)


def progress_table(study: Study) -> str:
    """Settings down, widths across: finished runs and the lowest mean loss so far."""
    widths = sorted({record.width for record in study.records})
    rows = []
    for name in study.settings:
        if study.source(name) != name:
            continue
        cells = []
        for width in widths:
            means = [float(losses.mean()) for losses in study.losses(name, width)[1]]
            finished = [mean for mean in means if mean == mean]
            runs = sum(map(len, study.runs(name, width).values()))
            cells.append(f"{runs}  {min(finished):.3f}" if finished else str(runs or "-"))
        rows.append([name, *cells])
    diverged = sum(1 for _ in study.divergences())
    speed = _runs_per_minute(study.records)
    heading = (
        f"{len(study.records)} of {study.planned} runs handed out are finished, {diverged} of them diverged"
        f"{f', {speed:.0f} a minute' if speed else ''}; finished runs and lowest mean loss by {study.conditions.axis}\n"
    )
    return heading + terminal_table(["setting", *map(str, widths)], rows, []) + "\n"


def _runs_per_minute(records: Sequence[Record]) -> float | None:
    """The speed of the last two hundred runs; None with too few to say."""
    times = sorted(datetime.fromisoformat(record.finished) for record in records)[-200:]
    seconds = (times[-1] - times[0]).total_seconds() if times else 0
    return 60 * (len(times) - 1) / seconds if seconds else None
