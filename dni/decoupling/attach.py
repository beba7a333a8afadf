r"""Interfaces behind the modules of a network that somebody else wrote.

An interface is a line in a ``forward``, and the ``forward`` of a library's ResNet is not
there to be edited. Replacing its modules by wrapped ones would rename every parameter, and
break every checkpoint. So an interface is attached from outside: it becomes a child of the
module that it stands behind, named ``dni_interface``, and a forward hook passes the output
through it::

    layer3 --- output ---> [hook: layer3.dni_interface(output)] ---> layer4

The network keeps its class, its names and its own keys in ``state_dict``; what is added can
be taken away. All cuts are of the connected form (``unlock=False``): one graph, and an
unchanged training loop.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from dni import _checks
from dni.decoupling.select import At, end_of, select
from dni.decoupling.shapes import dry_run, interfaces_for, same_random_state
from dni.interfaces import BackwardInterface
from dni.interfaces.find import ATTRIBUTE
from dni.interfaces.unshaped import Unshaped
from dni.synthesizers import synthesizer_for
from dni.synthesizers.choice import like

HOOK = "dni_hook"  # beside ATTRIBUTE: the handle of the hook
Model = TypeVar("Model", bound=nn.Module)
Builder = Callable[[Tensor], nn.Module]


def decouple(
    model: Model,
    at: At,
    synthesizer: nn.Module | Builder | None = None,
    *,
    sample: Any = None,
    context_dim: int | None = None,
    context_classes: int | None = None,
    mix: float = 0.0,
    factor: float = 1.0,
    normalize: bool | None = None,
    nonfinite: str = "raise",
) -> Model:
    r"""Put a :class:`BackwardInterface` behind modules of ``model``, in place.

    An unchanged loop, ``loss.backward(); optimizer.step()``, then trains network and
    synthesizers. Call it before ``torch.compile``, DDP or FSDP wrap the model.

    Args:
        model: any network, in training or in evaluation mode.
        at: behind what. A name as in ``model.named_modules()``; a pattern, in which ``*`` and
            ``?`` stay within one name and ``**`` crosses dots (``"layer?"``,
            ``"encoder.layers.*"``); a type of modules; a list of these; or ``"leaves"``, every
            module without children that has parameters to train, but for the last: the head
            needs no prediction of what the loss tells it. Behind an ``nn.Sequential`` means
            behind its last module.
        synthesizer: an instance, where ``at`` means one module; or a function that builds one
            for the tensor that a module puts out. Left out, :func:`synthesizer_for`. Where a
            module puts out several tensors, every one has an interface of its own.
        sample: what ``model`` is called with: a tensor, a tuple of arguments or a dict of
            keywords. A dry run then shows the shapes; it changes neither buffers nor random
            state. Left out, the first training batch shows them, and optimisers that were made
            before take the new parameters in at their next step. DDP, FSDP, a monitor and a
            checkpoint with synthesizers need shapes: pass a sample there.
        context_dim, context_classes: the context that :func:`synthesizer_for` builds for; not
            beside ``synthesizer``.
        mix, factor, normalize, nonfinite: see :class:`BackwardInterface`.

    Returns:
        ``model``. What is decoupled already stays as it is; an error changes nothing. In
        evaluation mode the model computes what it did before, bit for bit.

    Example:
        >>> model = torch.nn.Sequential(
        ...     torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)
        ... )
        >>> keys = set(model.state_dict())
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> model = dni.decouple(model, at="1", context_classes=2)
        >>> x, y = torch.randn(3, 4), torch.tensor([0, 1, 1])
        >>> with dni.synthesizer_context(y):
        ...     torch.nn.functional.cross_entropy(model(x), y).backward()
        >>> list(dni.interfaces_of(model)), keys < set(model.state_dict())
        (['1'], True)
    """
    who = "dni.decouple"
    _checks.is_model(model, who)
    _checks.not_wrapped(model, who)
    chosen = dict(end_of(name, module, who) for name, module in select(model, at, who).items())
    options = _options(mix, factor, normalize, nonfinite, who)
    contexts = {"context_dim": context_dim, "context_classes": context_classes}
    _checks.synthesizer_source(synthesizer, contexts, list(chosen), who)
    for name, module in chosen.items():
        _same(name, module, synthesizer, options, who)
    fresh = {name: module for name, module in chosen.items() if not hasattr(module, HOOK)}
    attached: dict[str, nn.Module]
    if isinstance(synthesizer, nn.Module):
        attached = {
            name: BackwardInterface(synthesizer, unlock=False, name=name, **options)
            for name in fresh
        }
        if sample is not None:
            dry_run(model, fresh, sample, who)
    else:
        build = _builder(synthesizer, contexts)
        makers = {
            name: partial(interfaces_for, build=build, name=name, options=options) for name in fresh
        }
        if sample is None:
            attached = {name: Unshaped(make, name, options) for name, make in makers.items()}
        else:
            outputs = dry_run(model, fresh, sample, who)
            with same_random_state(model):
                attached = {name: make(outputs[name]) for name, make in makers.items()}
    for name, module in fresh.items():
        attach(module, attached[name])
    return model


def strip(model: Model) -> Model:
    """Take away what :func:`decouple` attached: the plain model, in place.

    Interfaces that are written into a model stay. An optimiser that knows the synthesizers'
    parameters keeps them, and finds no gradients in them.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
        >>> plain = set(model.state_dict())
        >>> model = dni.decouple(model, at="0", sample=torch.randn(3, 4))
        >>> set(dni.strip(model).state_dict()) == plain
        True
    """
    _checks.is_model(model, "dni.strip")
    for module in list(model.modules()):
        if hasattr(module, HOOK):
            getattr(module, HOOK).remove()
            delattr(module, HOOK)
            delattr(module, ATTRIBUTE)
    return model


def attach(module: nn.Module, interface: nn.Module) -> None:
    """Let the output of ``module`` pass through ``interface``."""
    interface.train(module.training)
    module.add_module(ATTRIBUTE, interface)
    setattr(module, HOOK, module.register_forward_hook(_cut))


def _cut(module: nn.Module, arguments: Any, output: Any) -> Any:
    """The hook. A plain function: models that hold it are copied and pickled."""
    interface = getattr(module, ATTRIBUTE)
    if isinstance(interface, Unshaped):
        if not (interface.training and torch.is_grad_enabled()):
            return output
        interface = interface.shape(output)
        setattr(module, ATTRIBUTE, interface)
    return interface(output)


def _builder(synthesizer: Builder | None, contexts: dict[str, Any]) -> Builder:
    if synthesizer is None:
        return partial(synthesizer_for, **contexts)
    return partial(_built_by, synthesizer)


def _built_by(build: Builder, output: Tensor) -> nn.Module:
    made = build(output)
    return like(made, output) if isinstance(made, nn.Module) else made


def _options(
    mix: float, factor: float, normalize: bool | None, nonfinite: str, who: str
) -> dict[str, Any]:
    _checks.one_of("nonfinite", nonfinite, ("raise", "skip"), who)
    return {
        "mix": _checks.mix(mix, False, who),
        "factor": _checks.factor(factor, who),
        "normalize": normalize,
        "nonfinite": nonfinite,
    }


def _same(
    name: str, module: nn.Module, synthesizer: Any, options: dict[str, Any], who: str
) -> None:
    """Decoupling twice is decoupling once, if it asks for the same."""
    _checks.name_is_free(hasattr(module, ATTRIBUTE) and not hasattr(module, HOOK), name, who)
    if not hasattr(module, HOOK):
        return
    for there in getattr(module, ATTRIBUTE).modules():
        if isinstance(there, Unshaped):
            have = there.options
        elif isinstance(there, BackwardInterface):
            have = {"mix": there.mix, "factor": there.factor}
        else:
            continue
        differ = {key: have[key] for key in ("mix", "factor") if have[key] != options[key]}
        mine = getattr(there, "synthesizer", None)
        other = isinstance(synthesizer, nn.Module) and mine is not synthesizer
        _checks.decoupled_alike(differ, other, name, who)
