"""From exponents to numbers: the sizes at which the user tuned, those that are wanted, and the factors between."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sympy import Expr, Rational, S

from derive.axes import Axis, AxisRow
from derive.errors import DeriveError

if TYPE_CHECKING:
    from derive.solve import Layer

MATCHED = ("muon", "muon-keller", "muon-rms")
"""Rules whose rate `--match adamw` takes from AdamW's."""


@dataclass(frozen=True)
class Scale:
    """The way from the width at which the user tuned to the one that is wanted; factors are (N/N0)^-x.

    Both widths are None where only other axes move. Factors of the axes multiply with those of the width. `matched` are
    the rules of layer kinds whose base rate is not the given one, AdamW's, but matched to it.
    """

    base_width: int | None
    width: int | None
    base_rate: float | None = None
    matched: Mapping[str, str] = field(default_factory=dict)

    @property
    def matches(self) -> bool:
        """Whether the base rate is AdamW's, and Muon's comes from it."""
        return bool(self.matched)

    def of_adamw(self, kind: str) -> float:
        """A layer kind's base rate over AdamW's: 0.2 sqrt(n_0), for updates of the same RMS, on a hidden matrix n x n.

        muon-rms has that factor in its rule. Liu et al. 2025, 2502.16982.
        """
        rule = self.matched.get(kind)
        return 1.0 if rule is None or rule == "muon-rms" or self.base_width is None else 0.2 * self.base_width**0.5

    def match_lines(self, layers: "Sequence[Layer]") -> list[str]:
        """How the matched rate comes about, at the base and at the width, for square matrices."""
        if not self.matched or self.base_width is None or self.width is None:
            return []
        given, (small, large) = self.base_rate or 1.0, (self.base_width, self.width)
        hidden = next(layer for layer in layers if layer.kind in self.matched)
        exponent = hidden.c - (S.Half if self.matched[hidden.kind] == "muon-rms" else 0)
        polar = given * 0.2 * small**0.5
        wide = polar * self.factor(exponent)
        passed = wide / (0.2 * large**0.5)
        return [
            f"{hidden.kind}: polar(m) takes AdamW's rate x 0.2 sqrt(max(fan_in, fan_out)) at the base, where updates "
            "of both have the same RMS, and AdamW's decay over that, so that rate x decay stays. For square matrices:",
            f"  at {small}: {given:.6g} x 0.2 sqrt({small}) = {polar:.6g}",
            f"  at {large}: {polar:.6g} x {large / small:.6g}^-{exponent} = {wide:.6g}",
            f"  torch.optim.Muon there: lr={passed:.6g} with adjust_lr_fn='match_rms_adamw', whose factor is "
            f"0.2 sqrt({large}), or lr={wide:.6g} with 'original'; lr={given:.6g} with 'match_rms_adamw' would step "
            f"{given / passed:.6g} times as far",
        ]

    def factor(self, exponent: Expr) -> float:
        """(width / base_width)^-exponent; DeriveError where the exponent is still a symbol."""
        if self.width is None or self.base_width is None:
            return 1.0
        if not isinstance(exponent, Rational):
            raise DeriveError(f"exponent {exponent} has symbols in it; give them numbers to get numbers at a width")
        return (self.width / self.base_width) ** -float(exponent)

    def numbers(self, layer: "Layer", rows: Sequence[tuple[Axis, AxisRow]] = ()) -> dict[str, float | None]:
        """Rate, multiplier and the factors of the rest at the wanted sizes, by their names in JSON."""

        def along_all(exponent: Expr, key: str) -> float:
            return math.prod([self.factor(exponent), *(axis.factor(getattr(row, key)) for axis, row in rows)])

        rate = along_all(layer.c, "c") * (1.0 if self.base_rate is None else self.base_rate) * self.of_adamw(layer.kind)
        if not (math.isfinite(rate) and rate > 0):
            raise DeriveError(f"the rate at {self.described()} comes out as {rate}; give sizes and a rate within range")
        found: dict[str, float | None] = {
            "rate": rate,
            "multiplier": self.factor(layer.a),
            "init_factor": along_all(layer.b, "b"),
            "epsilon_factor": None if layer.epsilon is None else along_all(layer.epsilon, "epsilon"),
        }
        if layer.epsilon2 is not None:
            found["epsilon2_factor"] = along_all(layer.epsilon2, "epsilon2")
        found["decay_factor"] = along_all(layer.decay, "decay") / self.of_adamw(layer.kind)
        branches = [axis.factor(row.a) for axis, row in rows if row.a is not None]
        if branches:  # one for the whole branch, however many layers with multipliers of their own it has
            found["branch_multiplier"] = math.prod(branches)
        betas = [axis.factor(row.beta) for axis, row in rows if row.beta is not None]
        return found | ({"beta_factor": math.prod(betas)} if betas else {})

    def sizes(self, axes: Sequence[Axis] = ()) -> dict[str, int]:
        """The sizes by their names in JSON: base_width, width, base_depth, ..."""
        pairs = {axis.name: axis.sizes for axis in axes}
        if self.base_width is not None and self.width is not None:
            pairs = {"width": (self.base_width, self.width), **pairs}
        found: dict[str, int] = {}
        for name, pair in pairs.items():
            if pair is not None:
                found |= {f"base_{name}": pair[0], name: pair[1]}
        return found

    def described(self, axes: Sequence[Axis] = ()) -> str:
        """The wanted sizes in words: width 4096, depth 32."""
        return self._listed(axes, False)

    def tuned(self, axes: Sequence[Axis] = ()) -> str:
        """The sizes at which the user tuned, as `described`; the width alone is a number."""
        shown = self._listed(axes, True)
        return shown.removeprefix("width ") if "," not in shown else shown

    def _listed(self, axes: Sequence[Axis], base: bool) -> str:
        chosen = {name: size for name, size in self.sizes(axes).items() if name.startswith("base_") == base}
        return ", ".join(f"{name.removeprefix('base_')} {size}" for name, size in chosen.items())
