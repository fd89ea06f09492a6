"""A PyTorch module, unmodified, as make(width) for `verify.prescribe`, `verify check` and whatever else takes one.

torchax runs the module's forward on JAX arrays, operation by operation. Parameters are named as in
`named_parameters()`, a tied one once; those without requires_grad are not trained, and buffers are constants. Attention
is its two products, not one fused operation.
"""

import contextlib
import importlib.util
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from derive.errors import DeriveError, UserError, shorten
from verify.measuring.places import MODULE
from verify.training.networks import ModelError
from verify.values import Tree

Build = Callable[[int], Any]
Example = Callable[[int], Any]
SUPPORTED = "torch 2.13 with torchax 0.0.13 to 0.0.14.dev20261026"
INSTALL = "pip install torch 'torchax>=0.0.13'"


class Libraries(NamedTuple):
    """The two modules that the bridge stands on."""

    torch: Any
    torchax: Any


def libraries() -> Libraries:
    """torch and torchax; DeriveError in one line where one is missing or they do not go together."""
    for name in ("torch", "torchax"):
        if importlib.util.find_spec(name) is None:
            raise DeriveError(f"{name} is not installed, and PyTorch modules need it; run: {INSTALL}")
    import torch  # type: ignore[import-not-found]

    try:
        return Libraries(torch, _torchax(torch))
    except (AttributeError, ImportError) as error:
        raise DeriveError(
            f"torchax {_version('torchax')} does not run with torch {_version('torch')} ({shorten(str(error), 80)}); "
            f"supported is {SUPPORTED}"
        ) from error


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "(unknown)"


def _torchax(torch: Any) -> Any:
    """torchax, imported; 0.0.13 names overloads for named tensors, which torch 2.13 no longer has.

    They get a stand-in each, which nothing is ever dispatched to.
    """
    try:
        import torchax  # type: ignore[import-not-found]
    except AttributeError:
        spec = importlib.util.find_spec("torchax")
        sources = Path(str(spec and spec.origin)).parent.rglob("*.py")
        for text in [path.read_text(encoding="utf-8") for path in sources]:
            for name, overload in re.findall(r"torch\.ops\.aten\.(\w+)\.(\w+)", text):
                packet = getattr(torch.ops.aten, name, None)
                if packet is not None and not hasattr(packet, overload):
                    setattr(packet, overload, object())
        for name in [each for each in sys.modules if each.split(".")[0] == "torchax"]:
            del sys.modules[name]
        import torchax  # type: ignore[import-not-found]
    return torchax


def from_torch(
    build: Build,
    example: Example,
    loss: Callable[[Any, Any], Any] | None = None,
    *,
    output: Callable[[Any], Any] | None = None,
    train: bool = True,
    seed: int = 0,
) -> "TorchMake":
    """make(width) -> (params, apply, inputs) from build(width), which returns a torch.nn.Module.

    `example(width)` is what its forward takes: a tensor, a tuple of them, a mapping for keywords, or a function of the
    step that gives one. `loss(outputs, inputs)` is in torch's terms; outputs are all tensors of numbers that forward
    returns, or what `output` picks of it. The module is in training mode unless `train` is False, but for its Dropout
    layers. DeriveError for a missing library; ModelError, naming the module, for what cannot be lowered.
    """
    return TorchMake(libraries(), build, example, loss, output, train, seed)


class TorchMake:
    """make(width), as `from_torch` gives it; `shapes(width)` is the same with parameters that take no memory."""

    def __init__(
        self,
        known: Libraries,
        build: Build,
        example: Example,
        loss: Callable[[Any, Any], Any] | None,
        output: Callable[[Any], Any] | None,
        train: bool,
        seed: int,
    ) -> None:
        self.torch, torchax = known
        with jax.ensure_compile_time_eval():  # neither belongs to a trace that may be going on
            self.environment, self.key = torchax.default_env(), jax.random.key(seed)
        self.build, self.example, self.loss, self.output = build, example, loss, output
        self.train, self.seed = train, seed

    def __call__(self, width: int) -> tuple[Any, ...]:
        """(params, apply, inputs), or with the loss, parameters as numpy arrays by name."""
        return self._made(self._module(width), width)

    def shapes(self, width: int) -> tuple[Any, ...]:
        """The same with parameters as shapes: the module is built with them on torch's meta device, buffers whole."""
        try:
            with without_parameters(self.torch):
                module = self._module(width)
        except Exception:  # noqa: BLE001  # a module that reads its own parameters while it is built
            module = self._module(width)
        return self._made(module, width)

    def _module(self, width: int) -> Any:
        """The module at that width, in the mode in which it is trained, its own dropout off."""
        torch = self.torch
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            module = self.build(width)
        if not isinstance(module, torch.nn.Module):
            raise ModelError(f"build({width}) returned {type(module).__name__}; it has to return a torch.nn.Module")
        module.train(self.train)
        for each in module.modules():
            if isinstance(each, torch.nn.modules.dropout._DropoutNd):
                each.eval()
        return module

    def _made(self, module: Any, width: int) -> tuple[Any, ...]:
        params = {name: as_array(each) for name, each in module.named_parameters()}
        held = {name: as_array(each) for name, each in module.named_buffers()}
        frozen = {name for name, each in module.named_parameters() if not each.requires_grad}
        inputs = self._inputs(width)

        def apply(params: Tree, inputs: Tree) -> Tree:
            still = {name: jax.lax.stop_gradient(params[name]) for name in frozen}
            return self._run(module, {**params, **still, **held}, inputs)

        return (params, apply, inputs) if self.loss is None else (params, apply, inputs, self._jax_loss)

    def _inputs(self, width: int) -> Any:
        with self.torch.random.fork_rng(devices=[]):
            self.torch.manual_seed(self.seed)
            given = self.example(width)
        if callable(given):
            return lambda step: self._arrays(given(step), width)
        return self._arrays(given, width)

    def _arrays(self, given: Any, width: int) -> Tree:
        tensor = self.torch.Tensor
        ok = isinstance(given, tensor) or (isinstance(given, tuple | list | Mapping) and len(given) > 0)
        if not ok:
            raise ModelError(
                f"example({width}) gave {type(given).__name__}; give a tensor, a tuple of them, a mapping for "
                "keywords, or a function of the step that gives one"
            )
        return self.torch.utils._pytree.tree_map(lambda x: as_array(x) if isinstance(x, tensor) else x, given)

    @contextlib.contextmanager
    def _lowered(self) -> Iterator[Any]:
        """torchax's mode, its random numbers the same in every trace, attention as its products."""
        env, attention = self.environment, self.torch.nn.attention
        fast, transformer = self.torch.backends.mha.get_fastpath_enabled(), self.torch.nn.modules.transformer
        detect = transformer._detect_is_causal_mask
        self.torch.backends.mha.set_fastpath_enabled(False)
        # It asks a mask for its values, for a hint to the fused operation.
        transformer._detect_is_causal_mask = lambda _, is_causal=None, __=None: bool(is_causal)
        try:
            with env.override_property(prng=self.key), env, attention.sdpa_kernel(attention.SDPBackend.MATH):
                yield env
        finally:
            self.torch.backends.mha.set_fastpath_enabled(fast)
            transformer._detect_is_causal_mask = detect

    def _run(self, module: Any, state: Tree, inputs: Tree) -> Tree:
        state, inputs = jax.tree.map(jnp.asarray, (dict(state), inputs))
        with self._lowered() as env, in_scopes(module) as entered:
            args, keywords = _arguments(env.j2t_iso(inputs))
            try:
                with plain_tensors(self.torch, module, env):
                    found = self.torch.func.functional_call(
                        module, env.j2t_iso(state), args, keywords, tie_weights=True, strict=False
                    )
            except Exception as error:
                raise self._refused(error, module, entered) from error
            return env.t2j_iso(self._outputs(found))

    def _outputs(self, found: Any) -> Any:
        """The tensors of numbers that forward returned: one, or a tuple of all."""
        if self.output is not None:
            return self.output(found)
        leaves = self.torch.utils._pytree.tree_leaves(found)
        tensors = [each for each in leaves if isinstance(each, self.torch.Tensor) and each.is_floating_point()]
        if not tensors:
            raise ModelError(
                f"forward returned {type(found).__name__} with no tensor of numbers in it; pick one with output="
            )
        return tensors[0] if len(tensors) == 1 else tuple(tensors)

    def _refused(self, error: Exception, module: Any, entered: list[str]) -> Exception:
        """The error in one line, with the module that forward was in; errors of one's own stay as they are."""
        if isinstance(error, UserError):
            return error
        name = entered[-1] if entered else ""
        kind = type(module.get_submodule(name)).__name__
        where = f"module {name} ({kind})" if name else f"the forward of {kind} itself"
        if isinstance(error, jax.errors.ConcretizationTypeError | jax.errors.TracerArrayConversionError):
            return ModelError(
                f"{where} cannot be lowered to JAX, since it asks for the value of a tensor (if, item, numpy); choose "
                "by sizes and settings alone, such as with is_causal= for a mask"
            )
        reason = shorten(str(error).strip().partition("\n")[0], 120) or type(error).__name__
        return ModelError(
            f"{where} cannot be lowered to JAX: {type(error).__name__}: {reason}; write that part with operations that "
            "torchax knows"
        )

    def _jax_loss(self, outputs: Tree, inputs: Tree) -> Any:
        """The torch loss on JAX arrays."""
        if self.loss is None:
            raise TypeError("there is no loss")
        with self._lowered() as env:
            outputs, inputs = jax.tree.map(jnp.asarray, (outputs, inputs))
            return env.t2j_iso(self.loss(env.j2t_iso(outputs), env.j2t_iso(inputs)))


def _arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """(arguments, keywords) of forward."""
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)), {}


def as_array(tensor: Any) -> Any:
    """A tensor as a numpy array, or its shape where it is on the meta device; whole numbers and halves as JAX's."""
    kind = np.dtype(str(tensor.dtype).removeprefix("torch.").replace("bfloat16", "float32"))
    kind = {"int64": np.dtype("int32"), "float64": np.dtype("float32")}.get(kind.name, kind)
    if tensor.device.type == "meta":
        return jax.ShapeDtypeStruct(tuple(tensor.shape), kind)
    plain = tensor.detach().cpu()
    return (plain.float() if tensor.is_floating_point() else plain).numpy().astype(kind)


@contextlib.contextmanager
def without_parameters(torch: Any) -> Iterator[None]:
    """Modules built in here have their parameters on the meta device, one tied to another still; buffers are whole."""
    register, seen = torch.nn.Module.register_parameter, torch.utils.weak.WeakIdKeyDictionary()

    def light(module: Any, name: str, param: Any) -> None:
        if param is not None and param.device.type != "meta":
            if param not in seen:
                seen[param] = torch.nn.Parameter(param.to("meta"), requires_grad=param.requires_grad)
            param = seen[param]
        register(module, name, param)

    torch.nn.Module.register_parameter = light
    try:
        yield
    finally:
        torch.nn.Module.register_parameter = register


@contextlib.contextmanager
def plain_tensors(torch: Any, module: Any, env: Any) -> Iterator[None]:
    """Tensors that modules keep as plain attributes, as the bridge's, while forward runs."""
    kept: list[tuple[dict[str, Any], str, Any]] = []
    for each in module.modules():
        for name, value in vars(each).items():
            if isinstance(value, torch.Tensor) and value.device.type == "cpu":
                kept.append((vars(each), name, value))
    try:
        for holder, name, value in kept:
            holder[name] = env.j2t_iso(jnp.asarray(as_array(value)))
        yield
    finally:
        for holder, name, value in kept:
            holder[name] = value


@contextlib.contextmanager
def in_scopes(module: Any) -> Iterator[list[str]]:
    """Every module's forward under a scope of its name, which the program keeps; gives the names entered and not left.

    What raises leaves its own name last.
    """
    entered: list[tuple[str, Any]] = []
    names: list[str] = []
    handles = []

    def enter(name: str) -> Callable[..., None]:
        def before(*_: Any) -> None:
            scope = jax.named_scope(f"{MODULE}{name}")
            scope.__enter__()
            entered.append((name, scope))
            names.append(name)

        return before

    def leave(*_: Any) -> None:
        names.pop()
        entered.pop()[1].__exit__(None, None, None)

    try:
        for name, each in module.named_modules():
            handles += [each.register_forward_pre_hook(enter(name)), each.register_forward_hook(leave)]
        yield names
    finally:
        for handle in handles:
            handle.remove()
        while entered:
            entered.pop()[1].__exit__(None, None, None)
