"""A prescription as a JavaScript module: exponents as functions of the symbols in them, and factors at a width."""

from string import Template

from sympy import Expr, Symbol

from derive.emit import layer_names, title, verdict
from derive.emit_code import rate_text
from derive.errors import DeriveError
from derive.javascript import javascript
from derive.scale import Scale
from derive.solve import Prescription

MODULE = Template("""// Width scaling for $title.
// $verdict.
// An exponent x means size n^-x: multiplier n^-a, initial standard deviation n^-b, learning rate n^-c, epsilon n^-e,
// decoupled weight decay n^-decay; change n^-r is that of what the layer puts out. Factors are relative to the base.

export const SYMBOLS = $symbols;

/** Exponents per layer, every symbol of SYMBOLS a number: exponents({x: 0.8}). Alignments are at most 1. */
export function exponents(at = {}) {
  const open = SYMBOLS.filter(name => !Number.isFinite(at[name]));
  if (open.length) throw new RangeError(open.join(", ") + ": give a number for each symbol");
  return {
$entries
  };
}

$factor

/** Per layer: learning rate, multiplier, and factors for initial standard deviation, epsilon and weight decay. */
export function scale(width$width, baseWidth$base, baseRate$rate, at = {}) {
  const layers = {};
  for (const [layer, found] of Object.entries(exponents(at))) {
    const {change, ...sized} = found;
    layers[layer] = Object.fromEntries(Object.entries(sized).map(([name, x]) => [name, factor(x, width, baseWidth)]));
    layers[layer].rate *= baseRate;
  }
  return layers;
}
""")
FACTOR = """/** (width / baseWidth)^-x for the exponent x. */
export function factor(x, width, baseWidth) {
  if (width < baseWidth) throw new RangeError(`width ${width} is below ${baseWidth}: are they exchanged?`);
  return (width / baseWidth) ** -x;
}"""


def as_javascript(prescription: Prescription, scale: Scale | None = None) -> str:
    """A self-contained module with SYMBOLS, `exponents`, `factor` and `scale`; DeriveError where other axes move."""
    if prescription.axes:
        raise DeriveError("--format javascript is of the width alone; leave --residual, --batch and --tokens out")
    rows = [
        {
            "multiplier": layer.a,
            "init": layer.b,
            "rate": layer.c,
            "decay": layer.decay,
            "epsilon": layer.epsilon,
            "epsilon2": layer.epsilon2,
            "change": layer.r,
        }
        for layer in prescription.layers
    ]
    outcome = verdict(prescription)
    sizes = scale.sizes() if scale is not None else {}
    return MODULE.substitute(
        title=title(prescription).replace("\n", " "),
        verdict=outcome[:1].upper() + outcome[1:],
        symbols=str(_symbols([value for row in rows for value in row.values() if value is not None])).replace("'", '"'),
        entries="\n".join(
            f'    "{name}": {{{", ".join(f"{key}: {javascript(x)}" for key, x in row.items() if x is not None)}}},'
            for name, row in zip(layer_names(prescription), rows, strict=True)
        ),
        factor=FACTOR,
        width=f" = {sizes['width']}" if sizes else "",
        base=f" = {sizes['base_width']}" if sizes else "",
        rate=" = 1" if scale is None or scale.base_rate is None else rate_text(scale).replace("=", " = "),
    )


def _symbols(values: list[Expr]) -> list[str]:
    """Names of all symbols, in order."""
    return sorted({symbol.name for value in values for symbol in value.free_symbols if isinstance(symbol, Symbol)})
