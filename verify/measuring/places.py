"""Where in the user's own code a product stands, by the named scopes that a program keeps."""

from collections.abc import Iterable, Mapping

from jax.extend.core import ClosedJaxpr

from verify.measuring.jaxpr import BODIES, as_closed

MODULE = "module "
"""What the name of a scope starts with that is a module's whole name (`verify.torch`)."""


def places(program: ClosedJaxpr, addresses: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    """By name: "blocks.3.attn: scaled_dot_product_attention" in torch's modules, elsewhere its scopes a/b/c, if any."""
    found = {name: place(_scopes(program, address)) for name, address in addresses.items()}
    return {name: where for name, where in found.items() if where}


def place(scopes: Iterable[str]) -> str:
    """The innermost module and what is called in it; without modules all scopes."""
    names = list(scopes)
    modules = [at for at, name in enumerate(names) if name.startswith(MODULE)]
    if not modules:
        return "/".join(names)
    last = modules[-1]
    return f"{names[last].removeprefix(MODULE)}: {''.join(names[last + 1 : last + 2])}"


def _scopes(program: ClosedJaxpr, address: tuple[int, ...]) -> list[str]:
    """The names of the scopes around an equation, outermost first."""
    names: list[str] = []
    for index in address:
        eqn = program.jaxpr.eqns[index]
        stack = getattr(eqn.source_info.name_stack, "stack", ())
        names += [each.name for each in stack if type(each).__name__ == "Scope"]
        body = next((eqn.params[each] for each in BODIES if each in eqn.params), None)
        if body is None:
            break
        program = as_closed(body)
    return names
