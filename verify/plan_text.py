"""A plan as text: what every width takes on one device, and a table for each number of devices."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from derive.emit import markdown_text, terminal_table
from verify.plan_fit import Plan, as_json, study_hours

GB = 1e9
LEGEND = [
    "activations: kept from the forward to the backward pass; gradients: with copies of them and weights in bfloat16",
    "working: one block's weights and gradient where they are sharded, what remat makes again of it, and the loss",
    "probe: inputs of dense ops at the start, kept; measuring: W_0, DW of one op, activations of one block",
    "total: parameters, optimizer state, probe, and the larger of a step's rest and of measuring",
]


@dataclass(frozen=True)
class Part:
    """A heading, a table and lines below it."""

    heading: str
    columns: list[str]
    rows: list[list[str]]
    lines: list[str]


def number(value: float | None) -> str:
    """Three digits, from 10^7 on as 1.23e7; a dash for none."""
    if value is None:
        return "-"
    if value >= 10**7 or 0 < value < 0.001:
        digits, exponent = f"{value:.2e}".split("e")
        return f"{digits}e{int(exponent)}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def parts(plans: Sequence[Plan]) -> list[Part]:
    """The tables of a plan over widths and numbers of devices."""
    counts = list(dict.fromkeys(each.devices.count for each in plans))
    return [_whole([each for each in plans if each.devices.count == counts[0]]), *(_on(plans, each) for each in counts)]


def _whole(plans: Sequence[Plan]) -> Part:
    columns = ["width", "parameters", "FLOPs per step", "FLOPs per run", "parameters", "optimizer state", "gradients"]
    columns += ["activations", "with remat", "probe"]
    rows = []
    for each in plans:
        row = as_json(each)
        kept = row["bytes"]
        rows.append(
            [
                *(f"{row['width']:,}", f"{row['parameters']:,}", number(row["flops_per_step"]), number(row["flops"])),
                *(number(kept[name] / GB) for name in ("parameters", "optimizer_state", "gradients")),
                *(number(kept[f"activations_{how}_remat"] / GB) for how in ("without", "with")),
                number(kept["probe"] / GB),
            ]
        )
    return Part("What a width takes, in GB on one device", columns, rows, LEGEND)


def _on(plans: Sequence[Plan], count: int) -> Part:
    chosen = [each for each in plans if each.devices.count == count]
    columns = ["width", "mesh", "parameters", "optimizer state", "gradients", "activations", "working", "probe"]
    columns += ["measuring", "total", "hours per run", "hours", "device hours"]
    rows = [_cells(each) for each in chosen]
    fitting = [each for each in chosen if each.fits]
    lines = [f"{each.reason}." for each in chosen if each.reason is not None]
    lines.append(
        f"{len(fitting)} of {len(chosen)} widths fit; their runs take {number(study_hours(chosen))} device hours, and "
        f"{number(sum(each.hours or 0 for each in fitting))} hours with one width after the other."
    )
    return Part(f"On {count} device{'s' if count > 1 else ''}, GB per device", columns, rows, lines)


def _cells(each: Plan) -> list[str]:
    used = each.usage
    sizes = (used.parameters, used.optimizer_state, used.gradients, used.activations, used.working, used.probe)
    return [
        f"{each.network.width:,}",
        " x ".join(map(str, each.mesh)) if each.fits else "none",
        *(number(size / GB) for size in (*sizes, used.measuring, used.total)),
        *(number(hours) for hours in (each.hours_per_run, each.hours, each.device_hours if each.fits else None)),
    ]


def heading(conditions: Mapping[str, Any]) -> list[str]:
    """What the plan is of, a line each for model, study and devices."""
    sizes = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in conditions["sizes"].items())
    precision = conditions["dtype"] + (" over float32 parameters" if conditions["dtype"] != "float32" else "")
    remat = "with remat" if conditions["remat"] else "without remat"
    return [
        f"{conditions['model']}, {sizes}; {conditions['optimizer']}; {precision}, {remat}",
        f"{conditions['batch']} sequences a step, {conditions['steps']:,} steps, measured on {conditions['probe']} "
        f"sequences; {conditions['rates']} rates x {conditions['seeds']} seeds at every width",
        f"devices of {conditions['memory']:g} GB and {conditions['flops']:g} TFLOP/s, of which "
        f"{conditions['utilisation']:g} is reached; FLOPs are those of products, repeated ones included",
        *([f"the device: {conditions['assumed']}"] if conditions["assumed"] else []),
    ]


def table(conditions: Mapping[str, Any], plans: Sequence[Plan]) -> str:
    """For the terminal."""
    blocks = [
        "\n".join([part.heading, terminal_table(part.columns, part.rows), *part.lines]).rstrip()
        for part in parts(plans)
    ]
    return "\n".join(heading(conditions)) + "\n\n" + "\n\n".join(blocks) + "\n"


def markdown(conditions: Mapping[str, Any], plans: Sequence[Plan]) -> str:
    """As a page."""
    page = ["# A study, counted\n\n" + "".join(f"- {line}\n" for line in heading(conditions))]
    for part in parts(plans):
        lines = "".join(f"- {line}\n" for line in part.lines)
        page.append(f"## {part.heading}\n\n{markdown_text(part.columns, part.rows)}" + (lines and f"\n{lines}"))
    return "\n".join(page)


def contract(conditions: Mapping[str, Any], plans: Sequence[Plan]) -> dict[str, Any]:
    """The JSON contract of every verify command, with a row per width and number of devices."""
    device = (
        f"{conditions['memory']:g} GB, {conditions['flops']:g} TFLOP/s, {conditions['utilisation']:g} of it reached"
    )
    studies = []
    for count in dict.fromkeys(each.devices.count for each in plans):
        chosen = [each for each in plans if each.devices.count == count]
        fitting = sum(each.fits for each in chosen)
        studies.append({"devices": count, "widths_that_fit": fitting, "device_hours": study_hours(chosen)})
    return {
        "schema": 1,
        "command": "plan",
        "device": device,
        "corpus": None,
        **conditions,
        "studies": studies,
        "rows": [as_json(each) for each in plans],
    }
