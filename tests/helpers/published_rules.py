"""Seventy-five published update rules; `python -m tests.helpers.published_rules` writes the page of what follows.

Rows of the registry come with their own rule and source. Of the others the rule is written here; None, with a reason,
is what the language has no word for.
"""

from dataclasses import dataclass
from functools import cache

from sympy import S

from derive.emit import markdown_text
from derive.errors import DeriveError
from derive.optimizers import Optimizer
from derive.registry import ADAM, AGREEMENT, CLIPPED, LONGER, POLAR, REGISTRY, ROWS_ALIKE
from derive.solve import prescribe, solve_kinds
from tests.helpers.paths import ROOT

PAGE = ROOT / "docs" / "rules.md"


@dataclass(frozen=True)
class Rule:
    name: str
    update: str | None
    source: str
    reason: str = ""


WRITTEN = (
    Rule("nadam", "(9/10*m+1/10*g)/(sqrt(v)+eps)", "Dozat 2016, ICLR workshop"),
    Rule("amsgrad", "m/(sqrt(max(v,second(m)))+eps)", "Reddi et al. 2018, 1904.09237: the largest v so far"),
    Rule("adagrad", "g/(sqrt(v)+eps)", "Duchi et al. 2011, JMLR 12: v a sum over steps"),
    Rule("adadelta", "sqrt(eps2)*g/sqrt(v+eps)", "Zeiler 2012, 1212.5701: its own steps' size starts at eps"),
    Rule("adamax", "m/(abs(g)+eps)", "Kingma & Ba 2014, 1412.6980, alg. 2: the largest abs(g) so far"),
    Rule("adabelief", "m/(sqrt(second(g-m))+eps)", "Zhuang et al. 2020, 2010.07468"),
    Rule(
        "adan",
        "(m+0.92*first(g-g_prev))/(sqrt(second(g+0.92*(g-g_prev)))+eps)",
        "Xie et al. 2022, 2208.06677, alg. 1",
    ),
    Rule("padam", "m/(v**(1/8)+eps)", "Chen et al. 2018, 1806.06763, p = 1/8"),
    Rule("adam-mini", "m/(rownorm(g)/sqrt(fan_in)+eps)", "Zhang et al. 2024, 2406.16793: one v per output"),
    Rule("qhadam", "(7/10*m+3/10*g)/(sqrt(v)+eps)", "Ma & Yarats 2018, 1810.06801"),
    Rule("novograd", "m/(norm(g)+eps)", "Ginsburg et al. 2019, 1905.11286"),
    Rule("signum", "sign(m)", "Bernstein et al. 2018, 1802.04434"),
    Rule("grams", "sign(g)*abs(m)/(sqrt(v)+eps)", "Cao et al. 2024, 2412.17107"),
    Rule("cautious-lion", f"sign(m)*{AGREEMENT}/rms({AGREEMENT})**2", "Liang et al. 2024, 2411.16085"),
    Rule("stable-adamw", f"{ADAM}/max(1,rms(g/(sqrt(v)+eps)))", "Wortsman et al. 2023, 2304.13013"),
    Rule("clipped-sgd", "g*min(1,1/norm(g))", "Pascanu et al. 2012, 1211.5063, layer by layer"),
    Rule("agc", "g*min(1,rownorm(w)/(100*rownorm(g)))", "Brock et al. 2021, 2102.06171"),
    Rule("larc", "g*min(1,norm(w)/norm(g))", "You et al. 2017, 1708.03888, as clipping"),
    Rule("madgrad", "g/(v**(1/3)+eps)", "Defazio & Jelassi 2021, 2101.11075"),
    Rule(
        "shampoo-squared",
        "spectral(g,sigma/(sqrt(sigma**2+eps)*sqrt(sigma**2+eps)))",
        "Morwani et al. 2024, 2406.17748: both factors at power 1/2",
    ),
    Rule("one-sided-shampoo", "spectral(g,sigma/sqrt(sigma**2+eps))", "Xie et al. 2025, 2503.10537"),
    Rule(
        "distributed-shampoo",
        "spectral(g,sigma/sqrt(sigma**2+eps),blocks=(fan_out/1024,fan_in/1024))",
        "Shi et al. 2023, 2309.06497: blocks of a fixed size, not grafted",
    ),
    Rule("muon-bp", "polar(m,blocks=(2,4))", "Khaled et al. 2025, 2510.16981: a fixed number of blocks"),
    Rule("spectral-descent", "nucnorm(g)*polar(g)", "Carlson et al. 2015, NeurIPS"),
    Rule(
        "normuon-code",
        f"norm({POLAR})*{ROWS_ALIKE}/norm({ROWS_ALIKE})*sqrt(max(1,fan_out/fan_in))",
        "Li et al. 2025, github.com/zichongli5/NorMuon: the norm of the polar factor kept",
    ),
    Rule("mars-m", f"polar(first({CLIPPED}))*{LONGER}", "Liu et al. 2025, github.com/AGI-Arena/MARS, MARS_M"),
    Rule("fromage", "norm(w)*g/norm(g)", "Bernstein et al. 2020, 2002.03432"),
    Rule("nero", "rownorm(w)*g/(sqrt(second(rownorm(g)))+eps)", "Liu et al. 2021, 2102.07227"),
    Rule("madam", "abs(w)*g/(sqrt(v)+eps)", "Bernstein et al. 2020, 2006.14560, to first order in the rate"),
    Rule("exponentiated-gradient", "abs(w)*g", "Kivinen & Warmuth 1997, to first order in the rate"),
    Rule("dog", "max(norm(w),norm(dw))*g/norm(g)", "Ivgi et al. 2023, 2302.12022, layer by layer"),
    Rule("apollo", "m/(colnorm(m)+eps)", "Zhu et al. 2024, 2412.05270: Adam's size per channel, at a fixed rank"),
    Rule("adam-hyperball", f"norm(w)*({ADAM})/norm({ADAM})", "Wen et al. 2025, AdamH, as muon-hyperball"),
    Rule("swan", "polar(g/rownorm(g))", "Ma et al. 2024, 2412.13148"),
    Rule(
        "l-bfgs",
        None,
        "Liu & Nocedal 1989",
        "made of inner products with earlier steps over all layers, which no exponent of one layer gives",
    ),
    Rule(
        "adahessian",
        None,
        "Yao et al. 2020, 2006.00719",
        "divides by the Hessian's diagonal, whose exponents do not follow from the gradient's",
    ),
)
RULES = (*(Rule(row.name, row.update, row.source) for row in REGISTRY), *WRITTEN)


@cache
def exponents(rule: Rule) -> dict[str, tuple[str, ...]]:
    """c on embedding, hidden and readout under full alignment, by parameterization; DeriveError where refused."""
    if rule.update is None:
        raise DeriveError(rule.reason)
    row = Optimizer(rule.name, rule.update)
    return {scheme: tuple(map(str, solve_kinds(prescribe(row, scheme, "full").problem).c)) for scheme in ("sp", "mup")}


def at_other_ranks(rule: Rule) -> str:
    """c of a hidden layer of SP at rank one and at full rank, where they differ."""
    row = Optimizer(rule.name, str(rule.update))
    one, full = (prescribe(row.at_rank(beta), "sp", "full").c[1] for beta in (S.Zero, S.One))
    return "" if one == full else f"{one} at rank one, {full} at full rank"


def page() -> str:
    """The page, every exponent of it derived now."""
    derived, refused = [], []
    for rule in RULES:
        try:
            found = exponents(rule)
        except DeriveError as error:
            refused.append(
                [rule.name, f"`{rule.update}`" if rule.update else "-", str(error).replace("*", r"\*"), rule.source]
            )
        else:
            cells = [", ".join(found[scheme]) for scheme in ("sp", "mup")]
            derived.append([rule.name, f"`{rule.update}`", *cells, at_other_ranks(rule), rule.source])
    return (
        "# Seventy-five update rules\n\n"
        "Largest stable rates n^-c on embedding, hidden layers and readout under full alignment, derived from each "
        "rule. Where the gradient's\nrank decides, the smaller rate is shown and both are said. Written by "
        "`python -m tests.helpers.published_rules`; `derive --update RULE --explain` gives the derivation of one.\n\n"
        + markdown_text(["name", "rule", "c in SP", "c in muP", "hidden c in SP by rank", "source"], derived)
        + "\n## Refused\n\n"
        + markdown_text(["name", "rule", "reason", "source"], refused)
    )


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
