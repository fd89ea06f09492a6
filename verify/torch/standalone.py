"""What a prescription says of a PyTorch module: initial sizes, multipliers, parameter groups; torch alone is needed.

`verify prescribe --format torch` writes this out with a model's rows, as one file for the machine that trains.
"""

from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any, NamedTuple

import torch  # type: ignore[import-not-found]

from derive.emitted_muon import ADJUSTED, kernel_muon, muon_factor

WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "module.", "parametrizations.")
"""What torch.compile, FSDP, checkpointing, DDP and parametrizations put into names."""
OPTIMIZERS = {
    "sgd": ("SGD", {}),
    "momentum": ("SGD", {"momentum": 0.9}),
    "nesterov": ("SGD", {"momentum": 0.9, "nesterov": True}),
    "adam": ("AdamW", {}),
    "adamw": ("AdamW", {}),
    "rmsprop": ("RMSprop", {}),
    **{rule: ("Muon", {"adjust_lr_fn": adjusted}) for rule, adjusted in ADJUSTED.items()},
}
"""By rule: torch.optim's class and its keywords; decay is decoupled, and that of torch.optim.Adam is not."""
COUPLED = ("momentum", "nesterov", "rmsprop")
"""Rules whose class puts decay into the gradient, which is then averaged or divided."""
EPSILONS = dict.fromkeys(ADJUSTED, 1e-7)


class Row(NamedTuple):
    """One parameter: rule, shape, RMS at the base width, exponents x of (width / base width)^-x, fans at the width.

    `epsilon` is None where the rule has none, `rate` where it is not trained, `fans` where the rule takes no matrices.
    """

    rule: str
    shape: tuple[int, ...]
    rms: float | None
    init: str
    rate: str | None
    epsilon: str | None
    decay: str
    multiplier: str = "0"
    fans: tuple[int, int] | None = None


class Product(NamedTuple):
    """A product that needs (width / base width)^-exponent beside what the code has: in which module's which call."""

    module: str
    call: str
    exponent: str
    is_layer: bool


def is_vector(name: str, parameter: Any) -> bool:  # noqa: ARG001
    """Biases, gains and positions, which are usually not decayed."""
    return parameter.ndim < 2


def plain(name: str) -> str:
    """A parameter's name without what wrappers put into it."""
    for each in WRAPPERS:
        name = name.replace(f".{each}", ".").removeprefix(each)
    return name.removesuffix(".original")


class Scaling:
    """The way from the base width to `width`, for the module that the rows were derived for."""

    def __init__(
        self,
        base_width: int,
        width: int,
        rows: Mapping[str, Row],
        products: Mapping[str, Product] | None = None,
        forward_only: bool = False,
    ) -> None:
        self.base_width, self.width, self.rows, self.products = base_width, width, rows, products or {}
        self.forward_only, self.own_width = forward_only, width

    def at(self, width: int) -> "Scaling":
        """The same exponents at another width, of whose shapes nothing is known."""
        other = Scaling(self.base_width, width, self.rows, self.products, self.forward_only)
        other.own_width = self.own_width
        return other

    def factor(self, exponent: str | None) -> float:
        """(width / base width)^-exponent; 1 for none."""
        return 1.0 if exponent is None else (self.width / self.base_width) ** -float(Fraction(exponent))

    def of_model(self, model: Any) -> dict[str, tuple[Any, Row]]:
        """(parameter, row) by plain name; ValueError where the model is not the one that was prescribed for."""
        named = {plain(name): each for name, each in model.named_parameters()}
        odd = min({*self.rows} ^ {*named}, default=None)
        if odd is not None:
            where = "is in the prescription and not in the model" if odd in self.rows else "is not in the prescription"
            raise ValueError(f"{odd} {where}; prescribe for the model that is trained")
        for name, each in named.items():
            wanted = self.rows[name].shape
            if self.width == self.own_width and tuple(each.shape) != wanted:
                raise ValueError(f"{name} has shape {tuple(each.shape)}; at width {self.width} it has {wanted}")
        return {name: (each, self.rows[name]) for name, each in named.items()}

    @torch.no_grad()
    def rescale_(self, model: Any) -> Any:
        """Every parameter, as the model's own initialisers drew it, multiplied to have the prescribed RMS; in place."""
        for name, (parameter, row) in self.of_model(model).items():
            if row.rate is None:
                continue
            if row.rms is None:
                raise ValueError(f"how {name} starts at the base width is not known: it was prescribed for from shapes")
            target, now = row.rms * self.factor(row.init), _rms(parameter)
            if now == 0 and target > 0:
                raise ValueError(f"{name} is all zero, and at the base width its RMS is {row.rms:.3g}: draw it")
            if now > 0:
                parameter.mul_(target / now)
        return model

    def param_groups(
        self,
        model: Any,
        base_rate: float | Mapping[str, float],
        weight_decay: float = 0.0,
        *,
        eps: float | None = None,
        no_decay: Callable[[str, Any], bool] = is_vector,
        multipliers_applied: bool = False,
    ) -> list[dict[str, Any]]:
        """Groups for torch.optim with lr, eps and weight_decay of their own, plain floats; "names" and "rule" beside.

        All are given as tuned at the base width; `base_rate` may be one by rule, {"muon": 0.02, "adamw": 3e-3}. Decay
        is decoupled. ValueError where multipliers are needed and `apply_multipliers` was not called; say
        `multipliers_applied` where they are in the code.
        """
        if self._multiplies() and not (multipliers_applied or getattr(model, "multipliers_applied", False)):
            raise ValueError(
                "these rates are for a model with multipliers: call apply_multipliers(model) first, write the lines "
                "that it prints, and say multipliers_applied=True"
            )
        groups: dict[Any, dict[str, Any]] = {}
        for name, (parameter, row) in self.of_model(model).items():
            if row.rate is None or not parameter.requires_grad:
                continue
            rate = base_rate[row.rule] if isinstance(base_rate, Mapping) else base_rate
            epsilon = EPSILONS.get(row.rule, 1e-8) if eps is None else eps
            decay = 0.0 if no_decay(name, parameter) else weight_decay * self.factor(row.decay)
            own = _own_scale(name, row, parameter)
            numbers = {"lr": rate * self.factor(row.rate) * own, "weight_decay": decay / own}
            if row.epsilon is not None:
                numbers["eps"] = epsilon * self.factor(row.epsilon)
            group = groups.setdefault(
                (row.rule, *numbers.values()), {"params": [], "names": [], "rule": row.rule, **numbers}
            )
            group["params"].append(parameter)
            group["names"].append(name)
        return list(groups.values())

    def optimizers(self, model: Any, base_rate: float | Mapping[str, float], *args: Any, **keywords: Any) -> list[Any]:
        """A torch optimizer per rule, as torch.optim has them; arguments as of `param_groups`."""
        by_rule: dict[str, list[dict[str, Any]]] = {}
        for group in self.param_groups(model, base_rate, *args, **keywords):
            by_rule.setdefault(group["rule"], []).append(group)
        unknown = [rule for rule in by_rule if rule not in OPTIMIZERS]
        if unknown:
            raise ValueError(f"torch.optim has no {unknown[0]}; give param_groups to an optimizer of your own")
        coupled = [rule for rule in by_rule if rule in COUPLED and any(each["weight_decay"] for each in by_rule[rule])]
        if coupled:
            raise ValueError(f"torch.optim's decay of {coupled[0]} is no decoupled one; leave weight_decay at 0")
        made = []
        for rule, groups in by_rule.items():
            name, options = OPTIMIZERS[rule]
            made.append((kernel_muon() if name == "Muon" else getattr(torch.optim, name))(groups, **options))
        return made

    def _multiplies(self) -> bool:
        return bool(self.products) or any(Fraction(row.multiplier) for row in self.rows.values())

    def apply_multipliers(self, model: Any) -> list[str]:
        """Put in the multipliers that hooks and parametrizations can; prints, and returns, the lines for you to write.

        A parameter's is a parametrization, that of one use of a tied table a hook of its module. ValueError the second
        time, or where the model is another one.
        """
        if getattr(model, "multipliers_applied", False):
            raise ValueError("the multipliers are in this model already")
        rows = {name: row for name, (_, row) in self.of_model(model).items() if Fraction(row.multiplier)}
        for name, row in rows.items():
            owner, _, own = name.rpartition(".")
            times = Times(self.factor(row.multiplier), self.forward_only)
            torch.nn.utils.parametrize.register_parametrization(model.get_submodule(owner), own, times, unsafe=True)
        lines = []
        for name, product in self.products.items():
            by = self.factor(product.exponent)
            module: Any = model.get_submodule(product.module) if product.is_layer else None
            if isinstance(module, torch.nn.Linear | torch.nn.modules.conv._ConvNd):
                module.register_forward_pre_hook(_Before(by))
            elif isinstance(module, torch.nn.Embedding):
                module.register_forward_hook(_After(by))
            else:
                lines.append(self._line(name, product, by))
        model.multipliers_applied = True
        for line in lines:
            print(line)
        return lines

    @staticmethod
    def _line(name: str, product: Product, by: float) -> str:
        where = f"forward of {product.module}" if product.module else "the model's own forward"
        if product.call == "scaled_dot_product_attention":
            call = f"scaled_dot_product_attention(q, k, v, scale={by:.6g} * q.shape[-1] ** -0.5)"
            return f"{where}: {call}, or the scale that it has times {by:.6g}"
        what = f"the input of {product.call}" if product.is_layer else f"q of the product q k^T ({product.call})"
        return f"{where}: multiply {what} by {by:.6g}  # {name}"


class Times(torch.nn.Module):
    """A parameter times a number; with `forward_only` its gradient has no such factor."""

    def __init__(self, by: float, forward_only: bool = False) -> None:
        super().__init__()
        self.by, self.forward_only = by, forward_only

    def forward(self, weight: Any) -> Any:
        """The weight that the module uses."""
        return weight + (weight * self.by - weight).detach() if self.forward_only else weight * self.by


class _Before(NamedTuple):
    """A hook that multiplies a linear module's input, and so its output but for the bias."""

    by: float

    def __call__(self, _: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (inputs[0] * self.by, *inputs[1:])


class _After(NamedTuple):
    """A hook that multiplies a module's output."""

    by: float

    def __call__(self, _: Any, __: Any, output: Any) -> Any:
        return output * self.by


def _rms(parameter: Any) -> float:
    size = parameter.detach().float().square().mean()
    return float(size.full_tensor() if hasattr(size, "full_tensor") else size) ** 0.5


def _own_scale(name: str, row: Row, parameter: Any) -> float:
    """What Muon's rate is times; 1 for other rules."""
    if row.rule not in ADJUSTED:
        return 1.0
    return muon_factor(name, row.rule, row.fans or (0, 0), tuple(parameter.shape))
