"""A plan as text: what every width takes on one device, and a table for each number of devices."""

from collections.abc import Sequence
from dataclasses import dataclass

from derive.emit import markdown_text, terminal_table
from verify.planning.devices import Plan, as_json, study_hours
from verify.values import Document, Entries

GB = 1e9
LEGEND = [
    "weights: in float32; optimizer: its state",
    "activations: kept from the forward to the backward pass; gradients: with copies of them and weights in bfloat16",
    "working: one block's weights and gradient where they are sharded, what remat makes again of it, and the loss",
    "probe: inputs of dense ops at the start, kept; measuring: W_0, one op's W, DW, inputs and products, one block",
    "total: weights, optimizer, probe, and the larger of a step's rest and of measuring",
    "an axis that does not divide one side of a weight divides the other; a probe that it does not is whole everywhere",
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
    """The tables of a plan over widths and numbers of devices, none wider than 120 columns."""
    counts = list(dict.fromkeys(each.devices.count for each in plans))
    first = [each for each in plans if each.devices.count == counts[0]]
    on = [table for count in counts for table in _on([each for each in plans if each.devices.count == count])]
    return [_counted(first), _whole(first), *on]


def _counted(plans: Sequence[Plan]) -> Part:
    rows = [
        [
            f"{each.network.width:,}",
            f"{each.network.parameters:,}",
            *(number(flops) for flops in (each.flops_per_step, each.flops)),
        ]
        for each in plans
    ]
    return Part("What a width takes", ["width", "parameters", "FLOPs per step", "FLOPs per run"], rows, [])


def _whole(plans: Sequence[Plan]) -> Part:
    columns = ["width", "weights", "optimizer", "gradients", "activations", "with remat", "probe"]
    names = ["parameters", "optimizer_state", "gradients", "activations_without_remat", "activations_with_remat"]
    rows = []
    for each in plans:
        kept = as_json(each)["bytes"]
        rows.append([f"{each.network.width:,}", *(number(kept[name] / GB) for name in [*names, "probe"])])
    return Part("In GB on one device", columns, rows, LEGEND)


def _on(plans: Sequence[Plan]) -> list[Part]:
    """Memory and time on one number of devices."""
    count = plans[0].devices.count
    devices = f"On {count:,} device{_s(count)}"
    columns = ["width", "mesh", "weights", "optimizer", "gradients", "activations", "working", "probe", "measuring"]
    reasons = [f"{each.reason}." for each in plans if each.reason is not None]
    memory = Part(f"{devices}, GB per device", [*columns, "total"], [_memory(each) for each in plans], reasons)
    fitting = [each for each in plans if each.fits]
    summary = (
        f"{len(fitting)} of {len(plans)} widths fit; their runs take {number(study_hours(plans))} device hours, and "
        f"{number(sum(each.hours or 0 for each in fitting))} hours with one width after the other."
    )
    columns = ["width", "runs", "at once", "hours per run", "hours of all", "device hours"]
    return [memory, Part(f"{devices}, time", columns, [_time(each) for each in plans], [summary])]


def _memory(each: Plan) -> list[str]:
    used = each.usage
    sizes = (used.parameters, used.optimizer_state, used.gradients, used.activations, used.working, used.probe)
    return [
        f"{each.network.width:,}",
        " x ".join(map(str, each.mesh)) if each.fits else "none",
        *(number(size / GB) for size in (*sizes, used.measuring, used.total)),
    ]


def _time(each: Plan) -> list[str]:
    return [
        f"{each.network.width:,}",
        f"{each.training.runs:,}",
        f"{each.runs_at_once:,}" if each.fits else "-",
        *(number(hours) for hours in (each.hours_per_run, each.hours, each.device_hours if each.fits else None)),
    ]


def heading(conditions: Entries) -> list[str]:
    """What the plan is of, a line each for model, study and devices."""
    sizes = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in conditions["sizes"].items())
    precision = conditions["dtype"] + (" over float32 parameters" if conditions["dtype"] != "float32" else "")
    remat = "with remat" if conditions["remat"] else "without remat"
    return [
        f"{conditions['model']}, {sizes}; {conditions['optimizer']}; {precision}, {remat}",
        f"{conditions['batch']} sequences a step, {conditions['steps']:,} steps, measured on {conditions['probe']} "
        f"sequences; {conditions['rates']} rate{_s(conditions['rates'])} x {conditions['seeds']} "
        f"seed{_s(conditions['seeds'])} at every width",
        f"devices of {conditions['memory']:g} GB and {conditions['flops']:g} TFLOP/s, of which "
        f"{conditions['utilisation']:g} is reached; FLOPs are those of products, repeated ones included",
        *([f"the device: {conditions['assumed']}"] if conditions["assumed"] else []),
    ]


def _s(count: int) -> str:
    return "" if count == 1 else "s"


def table(conditions: Entries, plans: Sequence[Plan]) -> str:
    """For the terminal."""
    blocks = [
        "\n".join([part.heading, terminal_table(part.columns, part.rows), *part.lines]).rstrip()
        for part in parts(plans)
    ]
    return "\n".join(heading(conditions)) + "\n\n" + "\n\n".join(blocks) + "\n"


def markdown(conditions: Entries, plans: Sequence[Plan]) -> str:
    """As a page."""
    page = ["# A study, counted\n\n" + "".join(f"- {line}\n" for line in heading(conditions))]
    for part in parts(plans):
        lines = "".join(f"- {line}\n" for line in part.lines)
        page.append(f"## {part.heading}\n\n{markdown_text(part.columns, part.rows)}" + (lines and f"\n{lines}"))
    return "\n".join(page)


def contract(conditions: Entries, plans: Sequence[Plan]) -> Document:
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
