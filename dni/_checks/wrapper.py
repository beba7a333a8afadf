"""Networks that train themselves, and their synthesizers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from dni._checks.words import as_number, is_integer_from, kind, shape, size, structure


def share(value: Any, who: str) -> float:
    number = as_number("λ", value, who)
    if not 0.0 <= number <= 1.0:
        raise ValueError(
            f"{who}: λ is the share of backpropagation; expected a number from 0 (synthetic "
            f"gradients only) to 1 (backpropagation only), got {value!r}."
        )
    return number


def rate(value: Any, who: str) -> float:
    number = as_number("grad_lr", value, who)
    if not 0.0 <= number < float("inf"):
        raise ValueError(f"{who}: expected grad_lr to be a rate from 0 on, got {value!r}.")
    return number


Makers = Mapping[str, Callable[..., Optimizer]]


def known_optimizer(name: Any, known: Makers, argument: str, who: str) -> Callable[..., Optimizer]:
    if not isinstance(name, str) or name.lower() not in known:
        raise ValueError(
            f"{who}: expected {argument} to be one of {', '.join(sorted(known))}; got {name!r}."
        )
    return known[name.lower()]


def made_optimizer(make: Callable[..., Any], parameters: list[nn.Parameter], who: str) -> Optimizer:
    if not callable(make):
        raise TypeError(
            f"{who}: expected optim to be a name, an optimiser or a function of parameters, got "
            f"{kind(make)}."
        )
    made = make(parameters)
    if not isinstance(made, Optimizer):
        raise TypeError(f"{who}: expected optim(parameters) to be an optimiser, got {kind(made)}.")
    return made


def steps_alone(optimizer: Optimizer, parameters: list[nn.Parameter], who: str) -> None:
    if isinstance(optimizer, LBFGS):
        raise TypeError(
            f"{who}: parameters step one by one; expected an optimiser that can do that, got "
            "LBFGS, which needs all of them and a closure."
        )
    known = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    if not known & {id(parameter) for parameter in parameters}:
        raise ValueError(
            f"{who}: expected optim to be an optimiser of the network's parameters, got one that "
            "knows none of them."
        )


def same_parameters(optimizer: Optimizer, network: nn.Module, who: str) -> None:
    known = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    if not any(id(parameter) in known for parameter in network.parameters()):
        raise RuntimeError(
            f"{who}: expected the parameters that it was built with, got others, as to_empty(), "
            "fully_shard() and torch.func make them. Wrap the network after to_empty(); for all "
            "else, use dni.decouple and an optimizer."
        )


def arguments(value: Any, who: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"{who}: expected dni_params to be a dict of arguments, got {kind(value)}.")
    return dict(value)


def plain_inside(decoupled: list[str], who: str) -> None:
    if decoupled:
        named = ", ".join(repr(name) if name else "the network itself" for name in decoupled[:4])
        raise ValueError(
            f"{who}: expected a plain network, or one that holds whole wrappers; got one that is "
            f"decoupled after {named}. Use the wrapper that it has, or dni.strip(network) first."
        )


def same_run(name: str, mine: Any, saved: Any, who: str) -> None:
    if mine != saved:
        raise ValueError(
            f"{who}: a checkpoint fits wrappers built alike; expected {name} {mine}, got {saved}. "
            "Nothing was loaded: build it with the arguments that the checkpoint was saved with."
        )


def not_synchronised(active: bool, who: str) -> None:
    if active:
        raise RuntimeError(
            f"{who}: its parameters step before DistributedDataParallel averages gradients; "
            "expected a single process, got a DDP forward pass. Use dni.decouple and an optimizer."
        )


def synthesizer_class(value: Any, who: str) -> Callable[..., nn.Module] | None:
    if value is not None and (isinstance(value, nn.Module) or not callable(value)):
        raise TypeError(
            f"{who}: every cut needs a synthesizer of its own size; expected dni_network to be a "
            f"class, called with (input_size, hidden_size, output_size, **dni_params), got "
            f"{kind(value)}."
        )
    made: Callable[..., nn.Module] | None = value
    return made


def gpu(number: Any, who: str) -> torch.device | None:
    if not is_integer_from(-1, number):
        raise ValueError(
            f"{who}: expected gpu_id to be the number of a CUDA device, or -1 for none, got "
            f"{number!r}."
        )
    if number < 0:
        return None
    count = torch.cuda.device_count()
    if number >= count:
        raise ValueError(
            f"{who}: expected gpu_id to be the number of a CUDA device, of which there are "
            f"{count} here; got {number}. Pass -1 to stay where the network is."
        )
    return torch.device("cuda", number)


def something_to_train(found: bool, network: nn.Module, who: str) -> None:
    if not found:
        inside = any(True for _ in network.parameters())
        why = "whose parameters are frozen or wrapped already" if inside else "which has none"
        raise ValueError(
            f"{who}: what is decoupled has something to learn; expected a network with parameters "
            f"to train, got {type(network).__name__}, {why}. Use it as it is."
        )


def pair(answer: Any, network: nn.Module) -> tuple[Tensor, Any]:
    if not isinstance(answer, tuple) or len(answer) != 2 or not isinstance(answer[0], Tensor):
        raise TypeError(
            f"DNINetwork: expected forward(input, hidden) to return a pair (output, hidden) with a "
            f"tensor as output, got {structure(answer)} from {type(network).__name__}. Without "
            "memory: return output, None."
        )
    return answer


def context_of_wrapper(context: Any, classes: int | None) -> None:
    if not isinstance(context, Tensor):
        raise ValueError(
            "CDNI: its synthesizers are conditioned on a context; expected a tensor in `with "
            f"dni.synthesizer_context(labels):` around the forward pass, got {kind(context)}."
        )
    if not context.is_floating_point() and classes is None:
        raise ValueError(
            f"CDNI: expected a context of floating-point vectors, got {context.dtype}. For labels, "
            "pass their number: CDNI(network, classes=10)."
        )


def context_rows(told: Tensor, places: torch.Size, output: Tensor) -> None:
    """One context vector per row, per token, or (stacked layers) per row of each layer."""
    rows = told.shape[:-1]
    if rows != places and (len(rows) != 1 or rows[0] not in places[:2]):
        raise ValueError(
            f"CDNI: expected a context for each row of an activation of shape {shape(output)}, got "
            f"{size(rows)} of them. With dni.decouple you choose where cuts are."
        )
