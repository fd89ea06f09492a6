"""A coordinate check in torch itself: sizes at growing widths, by forward hooks, into a CSV; torch alone is needed.

`verify check --format torch` writes this out with a prescription, and `verify check --measured FILE` judges the CSV.
Names are those of the prescription: dense ops by parameter, and every parameter at "parameter NAME".

    output     W z of the probe batch at the start           weight, delta_w       W_0, W - W_0
    term_alpha DW z_0      term_omega W_0 Dz      term_u DW Dz      delta_output       their sum
"""

import argparse
import copy
import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch  # type: ignore[import-not-found]

from verify.torch.standalone import Scaling

SETUPS = ("own", "prescribed")
Ops = Mapping[str, tuple[str, str]]
"""By name of a dense op: its module and the parameter's name there, in the order in which they are called."""


def product(module: Any, weight: Any, z: Any) -> Any:
    """The module's linear part by another weight and input; None where it is not known how."""
    functional, kind = torch.nn.functional, type(module).__name__
    if isinstance(module, torch.nn.Linear):
        return functional.linear(z, weight)
    if isinstance(module, torch.nn.Embedding):
        return functional.embedding(z, weight)
    if isinstance(module, torch.nn.modules.conv._ConvTransposeNd):
        call = getattr(functional, f"conv_transpose{weight.ndim - 2}d")
        return call(
            z, weight, None, module.stride, module.padding, module.output_padding, module.groups, module.dilation
        )
    if isinstance(module, torch.nn.modules.conv._ConvNd):
        return module._conv_forward(z, weight, None)
    return z @ weight if kind == "Conv1D" and weight.ndim == 2 else None  # transformers' name for [in, out]


def rms(tensor: Any) -> float:
    """The root mean square of the entries."""
    return float(tensor.detach().float().square().mean().sqrt())


class Recorder:
    """What the probe batch makes of the initial model, and its sizes beside that later."""

    def __init__(self, model: Any, ops: Ops, probe: Any) -> None:
        self.model, self.probe, self.ops = model, probe, {}
        for name, (path, parameter) in ops.items():
            module = dict(model.named_modules()).get(path)
            if module is not None and hasattr(module, parameter):
                self.ops[name] = (module, parameter)
        self.weights = {name: each.detach().clone() for name, each in model.named_parameters()}
        self.first = {name: getattr(*op).detach().clone() for name, op in self.ops.items()}
        self.inputs = self._inputs()

    def _inputs(self) -> dict[str, Any]:
        """The input of every op; a module that is called again has its next op."""
        found: dict[str, Any] = {}
        waiting: dict[Any, list[str]] = {}
        for name, (module, _) in self.ops.items():
            waiting.setdefault(module, []).append(name)

        def hook(module: Any, inputs: Any, _: Any) -> None:
            if waiting[module] and inputs:
                found[waiting[module].pop(0)] = inputs[0].detach()

        handles = [module.register_forward_hook(hook) for module in waiting]
        try:
            with torch.no_grad():
                forward(self.model, self.probe)
        finally:
            for handle in handles:
                handle.remove()
        return found

    @torch.no_grad()
    def sizes(self, decay: Mapping[str, float]) -> Iterator[tuple[str, str, float]]:
        """(layer, quantity, size) of everything now."""
        present = self._inputs()
        for name, (module, parameter) in self.ops.items():
            if name not in self.inputs or name not in present:
                continue
            z, w = self.inputs[name], self.first[name]
            change = getattr(module, parameter).detach() - w
            total = product(module, change, z)
            if total is None:
                continue
            found = {"weight": rms(w), "delta_w": rms(change), "term_alpha": rms(total)}
            found["output"] = rms(product(module, w, z))
            if z.is_floating_point():
                shift = present[name] - z
                forward_term, second = product(module, w, shift), product(module, change, shift)
                total = total + forward_term + second
                found |= {"input": rms(z), "delta_input": rms(shift), "term_omega": rms(forward_term)}
                found["term_u"] = rms(second)
            for quantity, value in {**found, "delta_output": rms(total)}.items():
                yield name, quantity, value
        for name, each in self.model.named_parameters():
            then, at = self.weights[name], f"parameter {name}"
            yield at, "weight", rms(then)
            yield at, "delta_w", rms(each - then)
            yield at, "decay", decay[name]
            yield at, "entries", float(then.numel() if then.numel() > 1 and float(then.std()) > 0 else 0)


def forward(model: Any, inputs: Any) -> Any:
    """The model's outputs; a mapping is keywords."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple | list) else model(inputs)


def default_loss(outputs: Any, _: Any) -> Any:
    """Fixed random targets: cross-entropy where the last axis has two entries or more, else the mean square."""
    leaves = torch.utils._pytree.tree_leaves(outputs)
    total, draws = torch.zeros(()), torch.Generator().manual_seed(0)
    for each in leaves:
        if not (isinstance(each, torch.Tensor) and each.is_floating_point()):
            continue
        if each.ndim and each.shape[-1] > 1:
            targets = torch.randint(0, each.shape[-1], each.shape[:-1], generator=draws)
            logits = each.reshape(-1, each.shape[-1]).float()
            total = total + torch.nn.functional.cross_entropy(logits, targets.flatten().to(each.device))
        else:
            total = total + 0.5 * (each - torch.randn(each.shape, generator=draws).to(each.device)).square().mean()
    return total


def idle_decay(make: Callable[[Any], Sequence[Any]], model: Any) -> dict[str, float]:
    """The part of every parameter that a step without a gradient takes away."""
    other = copy.deepcopy(model)
    optimizers = make(other)
    for each in other.parameters():
        each.grad = torch.zeros_like(each)
    for optimizer in optimizers:
        optimizer.step()
    moved = zip(model.named_parameters(), other.parameters(), strict=True)
    return {name: rms(now - then) / size if (size := rms(then)) > 0 else 0.0 for (name, then), now in moved}


def measure(
    scaling: Scaling,
    ops: Ops,
    build: Callable[[int], Any],
    example: Callable[[int], Any],
    loss: Callable[[Any, Any], Any],
    make: Callable[[str, Any, int], Sequence[Any]],
    widths: Sequence[int],
    counts: tuple[int, int],
) -> Iterator[tuple[Any, ...]]:
    """Rows (setup, step, layer, quantity, width, seed, value) of every set-up, width and seed.

    `counts` are how many seeds there are, and how many steps each is trained.
    """
    seeds, steps = counts
    marks = {base * 10**power for base in (1, 2, 5) for power in range(9)} | {steps}
    for setup in SETUPS:
        for width in widths:
            for seed in range(seeds):
                torch.manual_seed(seed)
                model = build(width)
                given = example(width)
                batch = given if callable(given) else lambda _, given=given: given
                if setup == "prescribed":
                    scaling.at(width).rescale_(model)
                    scaling.at(width).apply_multipliers(model)
                recorder = Recorder(model, ops, batch(0))
                decay = idle_decay(lambda other, s=setup, w=width: make(s, other, w), model)
                optimizers = make(setup, model, width)
                for step in range(1, steps + 1):
                    value = loss(forward(model, batch(step)), batch(step))
                    for optimizer in optimizers:
                        optimizer.zero_grad()
                    value.backward()
                    for optimizer in optimizers:
                        optimizer.step()
                    if step in marks:
                        for layer, quantity, size in recorder.sizes(decay):
                            yield setup, step, layer, quantity, width, seed, f"{size:.7g}"


def write_sizes(rows: Iterator[tuple[Any, ...]], path: str) -> None:
    """The CSV that `verify check --measured` reads."""
    with open(path, "w", newline="", encoding="utf-8") as file:  # noqa: PTH123
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["setup", "step", "layer", "quantity", "width", "seed", "value"])
        writer.writerows(rows)


def arguments(widths: str, seeds: int, steps: int, rate: float, decay: float) -> argparse.Namespace:
    """What the file is called with."""
    parser = argparse.ArgumentParser(description="Coordinate check in torch; judge with verify check --measured FILE")
    parser.add_argument("--widths", default=widths)
    parser.add_argument("--seeds", type=int, default=seeds)
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--base-rate", type=float, default=rate)
    parser.add_argument("--weight-decay", type=float, default=decay)
    parser.add_argument("--out", default="sizes.csv")
    return parser.parse_args()
