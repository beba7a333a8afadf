r"""Attaches interfaces to the modules of a network that somebody else wrote.

An interface is a line in a ``forward``, and the ``forward`` of a library's ResNet is not
there to be edited. Replacing its modules by wrapped ones would rename every parameter, and
break every checkpoint. So an interface is attached from outside: it becomes a child, named
``dni_interface``, of the module that it stands after, and a forward hook passes that module's
output through it::

    layer3 --- output ---> [hook: layer3.dni_interface(output)] ---> layer4

The network keeps its class, its names and its own keys in ``state_dict``; what is added can
be taken away. All cuts have the connected form (``unlock=False``): one graph, and an
unchanged training loop.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from dni import _checks
from dni.decoupling.select import At, Places, select
from dni.decoupling.shapes import dry_run, interfaces_for
from dni.interfaces import BackwardInterface
from dni.interfaces.find import ATTRIBUTE, HOOK, attached_to
from dni.interfaces.optimizers import watch
from dni.interfaces.unshaped import Unshaped, learning, same_random_state
from dni.synthesizers import synthesizer_for
from dni.synthesizers.choice import like

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
    r"""Put a :class:`BackwardInterface` after modules of ``model``, in place.

    An unchanged loop, ``loss.backward(); optimizer.step()``, then trains network and
    synthesizers. Decouple before you make the optimiser, and before ``torch.compile``, DDP or
    FSDP wrap the model. To clip gradients, clip those of ``dni.base_parameters(model)``: a norm
    over all parameters would count the synthesizers' gradients too.

    Args:
        model: any network, in training or in evaluation mode.
        at: the modules to cut after: a name as in ``model.named_modules()``; a pattern, in
            which ``*`` and ``?`` stay within one name and ``**`` crosses dots (``"layer?"``,
            ``"encoder.layers.*"``); a type of modules; a list of these; or ``"leaves"``, every
            module without children that has parameters to train, except the head. (The loss
            tells the head its gradient, so it needs no prediction. With a ``sample`` the head is
            the leaf that returns the model's output, or else the one that runs last; without,
            the leaf that was registered last.) After an ``nn.Sequential`` means after its last
            module. A module that is matched by a pattern, a type or ``"leaves"``, but not
            reached by ``sample``, is left alone.
        synthesizer: an instance, if ``at`` means one module; or a function that builds one for
            the tensor that a module returns. If left out, :func:`synthesizer_for`. If a module
            returns several tensors, each of them gets an interface of its own.
        sample: what ``model`` is called with: a tensor, a tuple of arguments or a dict of
            keywords. A dry run then shows the shapes; it changes neither buffers nor random
            state. If left out, the first training batch shows them, and an optimiser made in
            the meantime takes in the new parameters before its next step. Whatever looks at
            parameters earlier needs a sample: DDP, FSDP, a monitor, a checkpoint with
            synthesizers, an averaged copy, a GradScaler, ``torch.compile``, an optimiser that
            does not step after the first backward pass.
        context_dim, context_classes: the context that :func:`synthesizer_for` builds for; not
            together with ``synthesizer``.
        mix, factor, normalize, nonfinite: see :class:`BackwardInterface`.

    Returns:
        ``model``. What is decoupled already keeps its interface and its synthesizer, and asking
        for another ``mix`` there is an error. An error changes nothing. In evaluation mode the
        model computes what it did before, bit for bit.

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
    options = _options(mix, factor, normalize, nonfinite, who)
    contexts = _contexts(context_dim, context_classes, who)
    places = select(model, at, who)
    for name, module in places.modules.items():
        _same(name, module, synthesizer, options, who)
    outputs = _unseen(places, who) if sample is None else dry_run(model, places, sample, who)
    _checks.synthesizer_source(synthesizer, contexts, outputs, model, who)
    build = _builder(synthesizer, contexts)
    attached: dict[str, nn.Module] = {}
    shaped: list[tuple[nn.Module, Unshaped, nn.Module]] = []
    for name, output in outputs.items():
        there = attached_to(places.modules[name])
        if isinstance(there, Unshaped) and sample is not None:
            shaped.append((places.modules[name], there, there.build(output)))
        if there is not None:
            continue
        make = partial(interfaces_for, build=build, name=name, options=options)
        if isinstance(synthesizer, nn.Module):
            attached[name] = BackwardInterface(synthesizer, unlock=False, name=name, **options)
        elif sample is None:
            attached[name] = Unshaped(make, name, options)
        else:
            with same_random_state(model.parameters()):
                attached[name] = make(learning(output, name))
    for module, there, interface in shaped:
        setattr(module, ATTRIBUTE, there.becomes(interface))
    for name, interface in attached.items():
        attach(places.modules[name], interface)
        if not isinstance(interface, Unshaped):
            watch(interface)
    return model


def strip(model: Model) -> Model:
    """Take away what :func:`decouple` attached, in place; return the plain model.

    Interfaces that are written into a model stay. An optimiser that holds the synthesizers'
    parameters keeps them, but they get no more gradients.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
        >>> plain = set(model.state_dict())
        >>> model = dni.decouple(model, at="0", sample=torch.randn(3, 4))
        >>> set(dni.strip(model).state_dict()) == plain
        True
    """
    _checks.is_model(model, "dni.strip")
    for module in list(model.modules()):
        if attached_to(module) is not None:
            vars(module).pop(HOOK).remove()
            delattr(module, ATTRIBUTE)
    return model


def attach(module: nn.Module, interface: nn.Module) -> None:
    """Let the output of ``module`` pass through ``interface``."""
    interface.train(module.training)
    setattr(module, ATTRIBUTE, interface)
    setattr(module, HOOK, module.register_forward_hook(_cut))


def _cut(module: nn.Module, arguments: Any, output: Any) -> Any:
    """The hook: a plain function, since models that hold it are copied and pickled."""
    interface = getattr(module, ATTRIBUTE)
    if isinstance(interface, Unshaped):
        if not (interface.training and torch.is_grad_enabled()):
            return output
        interface = interface.shape(output)
        setattr(module, ATTRIBUTE, interface)
    return interface(output)


def _unseen(places: Places, who: str) -> dict[str, None]:
    """The names of all places, except for the leaf that was registered last."""
    names = [name for name in places.modules if name != places.last]
    _checks.found_some(bool(names), "leaves before the last", places.modules, who)
    return dict.fromkeys(names)


def _contexts(dim: int | None, classes: int | None, who: str) -> dict[str, Any]:
    _checks.positive(who, context_dim=dim, context_classes=classes)
    return {"context_dim": dim, "context_classes": classes}


def _builder(synthesizer: Builder | nn.Module | None, contexts: dict[str, Any]) -> Builder:
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
    _checks.yes_or_no(normalize, "normalize", who)
    return {
        "mix": _checks.mix(mix, False, who),
        "factor": _checks.factor(factor, who),
        "normalize": normalize,
        "nonfinite": nonfinite,
    }


def _same(
    name: str, module: nn.Module, synthesizer: Any, options: dict[str, Any], who: str
) -> None:
    """Check that a module that is decoupled already was decoupled with the same arguments."""
    there = attached_to(module)
    if there is None:
        _checks.name_is_free(
            ATTRIBUTE in {**vars(module), **dict(module.named_children())}, name, who
        )
        return
    for one in there.modules():
        if isinstance(one, Unshaped):
            have = one.options
        elif isinstance(one, BackwardInterface):
            have = {"mix": one.mix, "factor": one.factor, "nonfinite": one.objective.nonfinite}
            if options["normalize"] is not None:
                have["normalize"] = one.objective.moments is not None
        else:
            continue
        differ = {key: value for key, value in have.items() if options[key] != value}
        mine = getattr(one, "synthesizer", None)
        other = isinstance(synthesizer, nn.Module) and mine is not synthesizer
        _checks.decoupled_alike(differ, other, name, who)
