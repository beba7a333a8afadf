"""The rows of the matrix: what is done to a network, and what has to come out.

Nearly every row trains a network twice, plainly and with the feature, and wants the same weights.
"""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import dni
from tests.cases import CLASSES, WIDTH
from tests.compatibility.subjects import Subject, Windows

State = dict[str, Tensor]
Row = Callable[[Subject], None]


def batches(steps: int, rows: int = 5) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs and labels, the same each time."""
    generator = torch.Generator().manual_seed(2)
    for _ in range(steps):
        x = torch.randn(rows, WIDTH, generator=generator)
        yield x, torch.randint(CLASSES, (rows,), generator=generator)


def train(
    subject: Subject,
    model: nn.Module | None = None,
    steps: int = 3,
    around: Callable[[], AbstractContextManager[Any]] = nullcontext,
    dtype: torch.dtype | None = None,
    optimizer: dict[str, Any] | None = None,
    **instead: Any,
) -> State:
    """A few steps; the weights and statistics after them."""
    model = subject.build() if model is None else model
    optimizers = subject.optimizers(model, **(optimizer or {}))
    for number, (x, y) in enumerate(batches(steps)):
        schedule(model, number)
        for one in optimizers:
            one.zero_grad()
        with around():
            subject.step(model, x if dtype is None else x.to(dtype), y, **instead)
        for one in optimizers:
            one.step()
    return {name: value.clone() for name, value in tensors(model).items()}


def tensors(model: nn.Module) -> State:
    """Of the ``state_dict``; an optimiser's state in it is not compared."""
    return {n: t for n, t in model.state_dict().items() if isinstance(t, Tensor)}


def schedule(model: nn.Module, step: int) -> None:
    """``mix`` changes from step to step, where there is one."""
    for interface in dni.interfaces_of(model).values():
        if isinstance(interface, dni.BackwardInterface) and not interface.unlock:
            interface.mix = (0.0, 0.5, 1.0, 0.25)[step % 4]


def same(found: State, expected: State, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=rtol, atol=atol, msg=name)


def compiles(backend: str, subject: Subject) -> None:
    """One region, at most two graphs in twenty steps while ``mix`` and labels change."""
    graphs = []

    def counting(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return torch._dynamo.lookup_backend(backend)(graph, inputs)

    torch.compiler.reset()
    model = subject.build()
    instead = subject.compiled(model, fullgraph=True, backend=counting)
    same(train(subject, model, 20, **instead), train(subject, steps=20), 1e-4, 1e-5)
    assert 1 <= len(graphs) <= 2


def autocast(subject: Subject) -> None:
    """bfloat16; weights stay float32, and go where they go without it."""
    around = partial(torch.autocast, "cpu", torch.bfloat16)
    found, plain, start = train(subject, around=around), train(subject), tensors(subject.build())
    for name, value in plain.items():
        if value.is_floating_point() and "moments" not in name:
            moved, expected = found[name] - start[name], value - start[name]
            assert found[name].dtype == value.dtype
            assert moved.norm() == expected.norm() == 0 or cosine(moved, expected) > 0.95, name


def cosine(a: Tensor, b: Tensor) -> float:
    return float(F.cosine_similarity(a.flatten(), b.flatten(), dim=0))


def grad_scaler(factor: float, subject: Subject) -> None:
    """The network through the scaler, synthesizers beside it; an overflow is skipped."""
    model = subject.build(nonfinite="skip")
    plain = subject.build()
    for one in (model, plain):
        for interface in dni.interfaces_of(one).values():
            silence(interface.synthesizer)
    base, own = subject.optimizers(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=factor)
    for x, y in batches(3):
        base.zero_grad()
        own.zero_grad()
        subject.step(model, x, y, scale=scaler.scale)
        scaler.step(base)
        own.step()
        scaler.update()
    expected = {n: p for n, p in train_plainly(subject, plain).items() if "moments" not in n}
    same({name: tensors(model)[name] for name in expected}, expected, 1e-3, 1e-5)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    x, y = next(batches(1))
    base.zero_grad()
    own.zero_grad()
    subject.step(model, x, y, scale=lambda loss: scaler.scale(loss) * float("inf"))
    scaler.step(base)
    scaler.update()
    assert scaler.get_scale() == factor / 2
    for parameter in dni.base_parameters(model):
        assert any(torch.equal(parameter, value) for value in before.values())
    for parameter in dni.synthesizer_parameters(model):
        assert parameter.grad is None or torch.isfinite(parameter.grad).all()


def silence(synthesizer: nn.Module) -> None:
    """A new one says zero, and nothing that depends on the first message's scale."""
    for parameter in synthesizer.layers[-1].parameters():
        nn.init.zeros_(parameter)


def train_plainly(subject: Subject, model: nn.Module) -> State:
    """Without a schedule."""
    optimizers = subject.optimizers(model)
    for x, y in batches(3):
        for one in optimizers:
            one.zero_grad()
        subject.step(model, x, y)
        for one in optimizers:
            one.step()
    return tensors(model)


def checkpointed(reentrant: bool, subject: Subject) -> None:
    """The forward pass runs twice, the message is learnt once."""

    def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        x = x.requires_grad_()  # which the reentrant kind asks for
        out: Tensor = checkpoint(partial(subject.loss, model), x, y, use_reentrant=reentrant)
        return out

    def core(model: nn.Module) -> Callable[..., Any]:
        return lambda x, state: checkpoint(
            model.core, x.requires_grad_(), state, use_reentrant=reentrant
        )

    model = subject.build()
    instead = {"core": core(model)} if isinstance(subject, Windows) else {"loss": loss}
    same(train(subject, model, **instead), train(subject))


def functional_grad(subject: Subject) -> None:
    """``torch.func.grad`` of the loss, of all parameters."""
    model = subject.build(normalize=False)
    x, y = next(batches(1))
    same(torch.func.grad(as_function(subject, model))(dict(model.named_parameters()), x, y),
         gradients(subject, model, x, y))  # fmt: skip


def per_sample(subject: Subject) -> None:
    """``vmap`` over ``grad``: each sample's gradient."""
    model = subject.build(normalize=False)
    x, y = next(batches(1))
    one = torch.func.grad(as_function(subject, model))
    found = torch.func.vmap(one, in_dims=(None, 0, 0))(
        dict(model.named_parameters()), x[:, None], y[:, None]
    )
    for row in range(len(x)):
        expected = gradients(subject, model, x[row : row + 1], y[row : row + 1])
        same({name: gradient[row] for name, gradient in found.items()}, expected)


def as_function(subject: Subject, model: nn.Module) -> Callable[..., Tensor]:
    """Of the parameters and a batch, the loss."""

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return subject.pure_loss(self.model, x, y)

    def loss(parameters: State, x: Tensor, y: Tensor) -> Tensor:
        named = {f"model.{name}": value for name, value in parameters.items()}
        out: Tensor = torch.func.functional_call(Whole(), named, (x, y))
        return out

    return loss


def gradients(subject: Subject, model: nn.Module, x: Tensor, y: Tensor) -> State:
    """Those of a step, zeros where none arrives."""
    model.zero_grad()
    subject.step(model, x, y)
    return {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for name, parameter in model.named_parameters()
    }


def functional_vmap(subject: Subject) -> None:
    """``torch.func.vmap``: an ensemble in evaluation mode."""
    model = subject.build().eval()
    x, y = next(batches(1))
    many = x.expand(3, *x.shape)
    found = torch.func.vmap(partial(subject.loss, model), in_dims=(0, None))(many, y)
    torch.testing.assert_close(found, subject.loss(model, x, y).expand(3))


def exports(subject: Subject) -> None:
    """``torch.export`` of what is used after training."""
    model = subject.build()
    train(subject, model)
    plain = model.core if isinstance(subject, Windows) else dni.strip(model).eval()
    x, _ = next(batches(1))
    inputs = (x.expand(6, *x.shape),) if isinstance(subject, Windows) else (x,)
    exported = torch.export.export(plain, inputs)
    torch.testing.assert_close(exported.module()(*inputs), plain(*inputs))


def copies(way: str, subject: Subject) -> None:
    """A copy goes on as the original does."""
    model = subject.build()
    train(subject, model)
    if way == "deepcopy":
        other = copy.deepcopy(model)
    elif way == "pickle":
        other = pickle.loads(pickle.dumps(model))
    else:
        buffer = io.BytesIO()
        torch.save(model.state_dict(), buffer)
        buffer.seek(0)
        other = subject.build()
        other.load_state_dict(torch.load(buffer, weights_only=True))
    same(tensors(other), tensors(model))
    same(train(subject, other), train(subject, model))


def saved_tensors(subject: Subject) -> None:
    """What autograd saves is packed away and taken out again."""

    @contextmanager
    def packed() -> Iterator[None]:
        kept: list[Tensor] = []

        def pack(tensor: Tensor) -> int:
            kept.append(tensor.detach().clone())
            return len(kept) - 1

        with torch.autograd.graph.saved_tensors_hooks(pack, kept.__getitem__):
            yield

    same(train(subject, around=packed), train(subject))


def accumulates(subject: Subject) -> None:
    """Two batches before a step: the sum of their gradients."""
    model, sums = subject.build(normalize=False), {}
    for x, y in batches(2):
        model.zero_grad()
        subject.step(model, x, y)
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                sums[name] = sums.get(name, 0) + parameter.grad
    model.zero_grad()
    for x, y in batches(2):
        subject.step(model, x, y)
    same({n: p.grad for n, p in model.named_parameters() if p.grad is not None}, sums)


def clips(subject: Subject) -> None:
    """The network's norm is clipped, whatever the synthesizers' is."""
    model = subject.build()
    x, y = next(batches(1))
    subject.step(model, x, y)
    own = [p.grad.clone() for p in dni.synthesizer_parameters(model) if p.grad is not None]
    torch.nn.utils.clip_grad_norm_(dni.base_parameters(model), 1e-3)
    norms = [p.grad.norm() for p in dni.base_parameters(model) if p.grad is not None]
    torch.testing.assert_close(torch.stack(norms).norm(), torch.tensor(1e-3), rtol=1e-2, atol=0)
    after = [p.grad for p in dni.synthesizer_parameters(model) if p.grad is not None]
    assert all(torch.equal(a, b) for a, b in zip(own, after, strict=True))


def deterministic(subject: Subject) -> None:
    """Nothing here is without a deterministic algorithm."""

    @contextmanager
    def on() -> Iterator[None]:
        torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(False)

    same(train(subject, around=on), train(subject), 0, 0)


def optimizer(kind: str, subject: Subject) -> None:
    """Fused and foreach steps."""
    options = {name: name == kind for name in ("foreach", "fused")}
    same(train(subject, optimizer=options), train(subject))


def narrow(dtype: torch.dtype, subject: Subject) -> None:
    """The whole network in another type: finite, and it moves where float32 does."""
    found = train(subject, subject.build().to(dtype), dtype=dtype)
    plain, start = train(subject), tensors(subject.build())
    for name, value in plain.items():
        if value.is_floating_point() and "moments" not in name:
            moved = found[name].float() - start[name].to(dtype).float()
            expected = value - start[name]
            assert found[name].dtype == dtype
            assert torch.isfinite(found[name]).all()
            if expected.norm() > 1e-3 * start[name].norm():
                assert cosine(moved, expected) > 0.8, name


def meta(subject: Subject) -> None:
    """Made without memory, filled from a checkpoint; and shapes without numbers."""
    with torch.device("meta"):
        model = subject.build()
        x, y = torch.empty(5, WIDTH), torch.zeros(5, dtype=torch.long)
        assert subject.loss(model.eval(), x, y).is_meta
    model.train()
    model.to_empty(device="cpu")
    other = subject.build()
    model.load_state_dict(other.state_dict())
    same(train(subject, model), train(subject, other))


ROWS: dict[str, Row] = {
    "torch.compile, aot_eager": partial(compiles, "aot_eager"),
    "torch.compile, inductor": partial(compiles, "inductor"),
    "autocast, bfloat16": autocast,
    "GradScaler, 2**8": partial(grad_scaler, 2.0**8),
    "GradScaler, 2**16": partial(grad_scaler, 2.0**16),
    "checkpoint": partial(checkpointed, False),
    "checkpoint, reentrant": partial(checkpointed, True),
    "torch.func.grad": functional_grad,
    "torch.func.vmap, evaluation": functional_vmap,
    "torch.func.vmap over grad": per_sample,
    "torch.export, stripped": exports,
    "copy.deepcopy": partial(copies, "deepcopy"),
    "pickle": partial(copies, "pickle"),
    "state_dict, weights_only": partial(copies, "state_dict"),
    "saved_tensors_hooks": saved_tensors,
    "gradient accumulation": accumulates,
    "gradient clipping": clips,
    "deterministic algorithms": deterministic,
    "foreach optimisers": partial(optimizer, "foreach"),
    "fused optimisers": partial(optimizer, "fused"),
    "float16": partial(narrow, torch.float16),
    "bfloat16": partial(narrow, torch.bfloat16),
    "float64": partial(narrow, torch.float64),
    "meta device": meta,
}
