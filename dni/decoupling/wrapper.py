r"""A whole network, decoupled in one line, that trains itself during ``loss.backward()``.

:func:`dni.decouple` leaves the training to a loop. :class:`DNI` takes it over: it wraps a
network, cuts after each of its leaves, and lets the optimiser step every parameter as soon as
its gradient is there (:mod:`dni.decoupling.stepping`)::

    loss.backward():  g at leaf 2 --> its synthesizer learns, and steps
                      lambda g + (1 - lambda) s --> leaf 2 learns, and steps
                                                    '--> g at leaf 1 --> ...
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dni import _checks
from dni.contexts import current_context
from dni.decoupling.attach import attach
from dni.decoupling.networks import Conv2dDNI, LinearDNI
from dni.decoupling.remembering import Remembering, feature_dim
from dni.decoupling.select import end_of, leaves, modules
from dni.decoupling.shapes import interfaces_for
from dni.decoupling.stepping import StepInBackward
from dni.interfaces import BackwardInterface
from dni.interfaces.find import ATTRIBUTE, attached_to
from dni.interfaces.unidirectional import inside_ddp
from dni.interfaces.unshaped import Pairs, Unshaped, same_random_state
from dni.parameters import base_parameters
from dni.synthesizers.choice import like

OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "adagrad": torch.optim.Adagrad,
    "rmsprop": partial(torch.optim.RMSprop, momentum=0.9),
    "sgd": partial(torch.optim.SGD, momentum=0.9),
}
Optim = str | Optimizer | Callable[[Iterable[nn.Parameter]], Optimizer]


class DNI(nn.Module):
    r"""``network``, decoupled, and trained during ``loss.backward()``.

    With :math:`g` the real gradient at the output of a leaf and :math:`s` the synthetic one,
    the leaf learns from

    .. math:: \lambda \cdot g + (1 - \lambda) \cdot s .

    An existing loop can stay. Its own ``optimizer.step()`` is no longer needed; if it is called,
    that is one more step. Gradients are kept for it until the next backward pass.

    Args:
        network: any network, wrapped and decoupled in place. Its methods and attributes can
            be called and read on the wrapper too; ``.network`` is the network itself.
        dni_network: a class of synthesizers, see :class:`DNINetwork`; if left out,
            :class:`Conv2dDNI` for maps and :class:`LinearDNI` for all else.
        dni_params: arguments for it besides the three sizes.
        optim: the optimiser of the network: a name; a function of parameters (such as
            ``torch.optim.SGD`` with its rate bound); or an existing optimiser, which keeps its
            state and schedulers. Adam, if left out.
        grad_optim: the optimiser of the synthesizers, by name: ``adam``, ``adamw``, ``adagrad``,
            ``rmsprop`` or ``sgd`` (the last two with a momentum of 0.9).
        grad_lr: the rate of ``grad_optim``, and of ``optim`` if that is a name or left out.
        hidden_size: that of the synthesizers; ``None`` is 10, as it was in the older library.
        λ: the share of backpropagation, from 0 (synthetic gradients only) to 1 (backpropagation
            only); an attribute that may change at any time.
        recursive: whether to cut after every leaf that has parameters, including the last one;
            if not, only after ``network`` itself.
        gpu_id: the number of a CUDA device to move to; -1 for none.
        normalize: see :class:`UnidirectionalInterface`; ``False`` was the older library's way.

    Shapes:
        input and output: those of ``network``.

    To resume a run, build the same wrapper and load its ``state_dict``, which holds optimisers
    and shapes.

    In training mode each backward pass is a step. So there is no accumulation over batches and
    no clipping, a GradScaler's factor would stay in the steps, DDP is refused, and a graph that
    is backpropagated twice finds other weights than it was made with (PyTorch says *modified by
    an inplace operation*). For any of these, use :func:`decouple` and an optimiser.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> before = net[0].weight.detach().clone()
        >>> net = dni.DNI(net, grad_optim="adam", grad_lr=0.01, λ=0.5)
        >>> net(torch.ones(1, 4)).sum().backward()
        >>> bool((net[0].weight != before).any()), list(dni.interfaces_of(net.network))
        (True, ['0', '2'])
    """

    _context_size: int = 0  # features of a context beside those of an activation
    _classes: int | None = None  # number of classes, if the context is labels

    def __init__(
        self,
        network: nn.Module,
        dni_network: Callable[..., nn.Module] | None = None,
        dni_params: Mapping[str, Any] | None = None,
        optim: Optim | None = None,
        grad_optim: str = "adam",
        grad_lr: float = 0.001,
        hidden_size: int | None = 10,
        λ: float = 0.5,
        recursive: bool = True,
        gpu_id: int = -1,
        *,
        normalize: bool | None = None,
    ) -> None:
        super().__init__()
        who = type(self).__name__
        _checks.is_model(network, who)
        _checks.not_wrapped(network, who)
        _checks.positive(who, hidden_size=hidden_size)
        _checks.yes_or_no(normalize, "normalize", who)
        self._λ = _checks.share(λ, who)
        self._hidden_size = 10 if hidden_size is None else hidden_size
        self._normalize = normalize
        self._kind = _checks.synthesizer_class(dni_network, who)
        self._params = _checks.arguments({} if dni_params is None else dni_params, who)
        make = _checks.known_optimizer(grad_optim, OPTIMIZERS, "grad_optim", who)
        self._grad_optim = partial(make, lr=_checks.rate(grad_lr, who))
        device = _checks.gpu(gpu_id, who)
        cuts = _cuts(network, recursive, who)
        parameters = [p for p in _own(network, base_parameters(network)) if p.requires_grad]
        _checks.something_to_train(bool(parameters), network, who)
        optimizer = _optimizer(optim, parameters, grad_lr, who)

        self.network = network if device is None else network.to(device)
        self.optim = optimizer
        self.grad_optim: Optimizer | None = None  # once a first batch has shown the shapes
        self._base = StepInBackward(optimizer, keep=True)
        self._synthesizers: StepInBackward | None = None
        self._remembering: list[Remembering] = []
        self._shapes: dict[str, list[tuple[list[Any], list[int]]]] = {}
        self._saved: dict[str, Any] | None = None  # optimisers, while weights are loaded
        self._names = list(cuts)
        self.register_load_state_dict_pre_hook(_checks.fits_checkpoint)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_post_hook(_load_optimizers)  # type: ignore[no-untyped-call]
        options = self._options()
        for name, module in cuts.items():
            attach(module, Unshaped(partial(self._make, name), name, options))
        self._arm()

    @property
    def λ(self) -> float:
        """The share of backpropagation in what a leaf learns from."""
        return self._λ

    @λ.setter
    def λ(self, value: float) -> None:
        self._λ = _checks.share(value, type(self).__name__)
        for name in self._names:
            interface = attached_to(self.network.get_submodule(name))
            for one in [] if interface is None else interface.modules():
                if isinstance(one, BackwardInterface):
                    one.mix = self._λ

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The output of ``network``."""
        _checks.not_synchronised(inside_ddp(), type(self).__name__)
        for one in self._remembering:
            one.hidden = None
        self._arm()
        return self.network(*args, **kwargs)

    def train(self, mode: bool = True) -> DNI:
        """Set the mode; in evaluation mode a backward pass steps nothing."""
        super().train(mode)
        for stepper in (self._base, self._synthesizers):
            if stepper is not None:
                stepper.on = mode
        return self

    def get_extra_state(self) -> dict[str, Any]:
        """Optimisers and shapes, for ``state_dict``."""
        here = {name: attached_to(self.network.get_submodule(name)) for name in self._shapes}
        shapes = {name: self._shapes[name] for name, one in here.items() if one is not None}
        optimizers = {"optim": self.optim, "grad_optim": self.grad_optim if shapes else None}
        states = {name: one.state_dict() for name, one in optimizers.items() if one is not None}
        kinds = {name: type(one).__name__ for name, one in optimizers.items() if one is not None}
        sizes = {"hidden_size": self._hidden_size, "context_size": self._context_size}
        return states | sizes | {"kinds": kinds, "shapes": shapes}

    def set_extra_state(self, state: Any) -> None:
        """Give the cuts the shapes of the weights to come; optimisers are loaded after those."""
        who = type(self).__name__
        _checks.same_run("optim", type(self.optim).__name__, state["kinds"]["optim"], who)
        if self.grad_optim is not None and "grad_optim" in state["kinds"]:
            kind = type(self.grad_optim).__name__
            _checks.same_run("grad_optim", kind, state["kinds"]["grad_optim"], who)
        _checks.same_run("hidden_size", self._hidden_size, state["hidden_size"], who)
        if self._context_size or self._classes:
            size = self._context_size or self._classes
            _checks.same_run("a context of", size, state["context_size"], who)
        self._context_size = state["context_size"]
        like = next(self.network.parameters()).detach().flatten()[0]
        for name, pairs in state["shapes"].items():
            module = self.network.get_submodule(name)
            if isinstance(attached_to(module), Unshaped):
                with same_random_state(()):
                    made = self._make(name, [(tuple(at), like.expand(size)) for at, size in pairs])
                setattr(module, ATTRIBUTE, made)
        self._saved = copy.deepcopy(state)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name in ("network", ATTRIBUTE) or "_modules" not in vars(self):
                raise
            return getattr(self.network, name)

    def __getitem__(self, index: Any) -> Any:
        return cast(Any, self.network)[index]

    def _make(self, name: str, pairs: Pairs) -> nn.Module:
        """The interfaces after a module that returns these tensors."""
        made = interfaces_for(pairs, self._build, name, self._options())
        self._shapes[name] = [(list(place), list(tensor.shape)) for place, tensor in pairs]
        new = [parameter for parameter in made.parameters() if parameter.requires_grad]
        if new and self.grad_optim is not None:
            self.grad_optim.add_param_group({"params": new})
        elif new:
            self.grad_optim = self._grad_optim(new)
            self._synthesizers = StepInBackward(self.grad_optim, keep=False)
        self._arm()
        return made

    def _options(self) -> dict[str, Any]:
        """The options of the interfaces."""
        mix, normalize = self._λ, self._normalize
        return {"mix": mix, "factor": 1.0, "normalize": normalize, "nonfinite": "raise"}

    def _build(self, output: Tensor) -> nn.Module:
        """A synthesizer for ``output``."""
        kind = self._kind or (Conv2dDNI if output.dim() == 4 else LinearDNI)
        size = output.shape[feature_dim(output)]
        network = kind(size + self._context_size, self._hidden_size, size, **self._params)
        made = Remembering(network, bool(self._context_size), self._classes)
        self._remembering.append(made)
        return like(made, output)

    def _arm(self) -> None:
        """Hook every parameter that is not hooked yet, such as those of copies, or thawed ones."""
        if self.training:
            _checks.same_parameters(self.optim, self.network, type(self).__name__)
        self._base.arm(_own(self.network, self.network.parameters()))
        if self._synthesizers is not None:
            groups = self._synthesizers.optimizer.param_groups
            self._synthesizers.arm(parameter for group in groups for parameter in group["params"])


class CDNI(DNI):
    r""":class:`DNI` with synthesizers that see a context: *conditional* DNI, or cDNI.

    The context :math:`c` is that of :func:`dni.synthesizer_context`, around the forward pass. It
    stands beside the activation in the input of each synthesizer, :math:`s = S([h, c])`.

    Args:
        classes: number of classes, if the context is a tensor of integer labels; if left out,
            the context is a tensor of vectors.
        network, dni_network, dni_params, optim, grad_optim: see :class:`DNI`.
        grad_lr, hidden_size, λ, recursive, gpu_id, normalize: likewise.

    Shapes:
        context: ``(batch, ...)`` vectors, or with ``classes`` integer labels ``(batch,)``.

    Example:
        >>> net = dni.CDNI(torch.nn.Linear(4, 3), λ=0, classes=3)
        >>> x, labels = torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])
        >>> with dni.synthesizer_context(labels):
        ...     torch.nn.functional.cross_entropy(net(x), labels).backward()
        >>> net.network.dni_interface.synthesizer.network.input_size
        6
    """

    def __init__(
        self, network: nn.Module, *args: Any, classes: int | None = None, **kwargs: Any
    ) -> None:
        _checks.positive(type(self).__name__, classes=classes)
        super().__init__(network, *args, **kwargs)
        self._classes = classes

    def _build(self, output: Tensor) -> nn.Module:
        if not self._context_size:
            context = current_context()
            _checks.context_of_wrapper(context, self._classes)
            self._context_size = self._classes or context.shape[-1]
        return super()._build(output)


def _load_optimizers(wrapper: DNI, incompatible: Any) -> None:
    """A hook after the weights are loaded: load the optimisers too, if all weights were there."""
    saved, wrapper._saved = wrapper._saved, None
    complete = not incompatible.missing_keys and not incompatible.unexpected_keys
    if saved is not None and complete:
        wrapper.optim.load_state_dict(saved["optim"])
        if wrapper.grad_optim is not None and "grad_optim" in saved:
            wrapper.grad_optim.load_state_dict(saved["grad_optim"])


def _cuts(network: nn.Module, recursive: bool, who: str) -> dict[str, nn.Module]:
    """The places of the interfaces, by name, except what wrappers inside have decoupled."""
    theirs = {inner for outer in _wrappers(network) for inner in outer.modules()}
    ours = {name: module for name, module in modules(network) if module not in theirs}
    decoupled = [name for name, module in ours.items() if attached_to(module) is not None]
    _checks.plain_inside(decoupled, who)
    if not recursive:
        return dict([end_of("", network, who)])
    names = {module: name for name, module in reversed(ours.items())}
    return {names[leaf]: leaf for leaf in leaves(ours)}


def _own(network: nn.Module, parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """``parameters`` without those that a wrapper inside ``network`` trains."""
    theirs = {parameter for outer in _wrappers(network) for parameter in outer.parameters()}
    return [parameter for parameter in parameters if parameter not in theirs]


def _wrappers(network: nn.Module) -> list[nn.Module]:
    return [module for module in network.modules() if isinstance(module, DNI)]


def _optimizer(
    optim: Optim | None, parameters: list[nn.Parameter], lr: float, who: str
) -> Optimizer:
    if isinstance(optim, Optimizer):
        made = optim
    elif optim is None or isinstance(optim, str):
        made = _checks.known_optimizer(optim or "adam", OPTIMIZERS, "optim", who)(parameters, lr=lr)
    else:
        made = _checks.made_optimizer(optim, parameters, who)
    _checks.steps_alone(made, parameters, who)
    return made
