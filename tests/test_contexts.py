"""Contexts and deferred gradients: nested, private to a thread, gone after an exception."""

from __future__ import annotations

import threading

import pytest
import torch

import dni
from tests.cases import WIDTH, Counting


def seen_by(synthesizer, interface, rows=2):
    interface(torch.randn(rows, WIDTH, requires_grad=True) * 1)
    return synthesizer.contexts[-1]


@pytest.fixture
def synthesizer():
    return Counting(WIDTH, context_dim=3)


@pytest.fixture
def interface(synthesizer):
    return dni.BackwardInterface(synthesizer)


def test_the_innermost_context_reaches_the_synthesizer_as_given(synthesizer, interface):
    outer, inner = torch.zeros(2, 3), torch.ones(2, 3)
    with dni.synthesizer_context(outer):
        with dni.synthesizer_context(inner):
            assert seen_by(synthesizer, interface) is inner
        assert seen_by(synthesizer, interface) is outer


def test_any_object_may_be_a_context():
    class Reads(torch.nn.Module):
        def forward(self, trigger, context):
            return trigger * context["scale"]

    interface = dni.BackwardInterface(Reads())
    h = torch.ones(2, 3, requires_grad=True)
    with dni.synthesizer_context({"scale": 2.0}):
        interface(h * 1)
    assert torch.equal(h.grad, torch.full((2, 3), 2.0))


def test_none_hides_an_outer_context(interface):
    with (
        dni.synthesizer_context(torch.zeros(2, 3)),
        dni.synthesizer_context(None),
        pytest.raises(ValueError, match="there is none"),
    ):
        interface(torch.ones(2, WIDTH, requires_grad=True) * 1)


def test_an_exception_leaves_no_context_behind(synthesizer, interface):
    given = torch.zeros(2, 3)
    with pytest.raises(KeyError), dni.synthesizer_context(torch.ones(2, 3)):
        raise KeyError
    with pytest.raises(ValueError, match="synthesizer_context"):
        interface(torch.ones(2, WIDTH, requires_grad=True) * 1)
    with dni.synthesizer_context(given):
        assert seen_by(synthesizer, interface) is given


def test_the_context_is_read_forward_and_not_needed_backward(synthesizer):
    interface = dni.BackwardInterface(synthesizer, unlock=False)
    h = torch.randn(2, WIDTH, requires_grad=True)
    with dni.synthesizer_context(torch.ones(2, 3)):
        out = interface(h)
    out.sum().backward()
    assert len(synthesizer.contexts) == 1


def test_threads_do_not_see_each_others_contexts():
    meet = threading.Barrier(2, timeout=30)
    seen, errors = {}, []

    def work(number):
        try:
            synthesizer = Counting(WIDTH, context_dim=3)
            interface = dni.BackwardInterface(synthesizer)
            context = torch.full((2, 3), float(number))
            with dni.synthesizer_context(context):
                meet.wait()
                seen[number] = seen_by(synthesizer, interface) is context
                meet.wait()
        except Exception as error:  # carried to the main thread
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not errors
    assert seen == {0: True, 1: True}


def test_threads_do_not_defer_each_others_gradients():
    w = torch.ones((), requires_grad=True)

    def work():
        dni.backward(w * 2)

    with dni.defer_backward():
        thread = threading.Thread(target=work)
        thread.start()
        thread.join(timeout=60)
        assert w.grad == 2


def test_deferred_gradients_run_once_at_the_end():
    w = torch.tensor(3.0, requires_grad=True)
    h = w * w
    with dni.defer_backward():
        dni.backward(h, torch.tensor(1.0))
        dni.backward(2 * h)
        assert w.grad is None
    assert w.grad == 18


def test_an_exception_discards_what_was_deferred():
    w = torch.tensor(3.0, requires_grad=True)
    with pytest.raises(KeyError), dni.defer_backward():
        dni.backward(w * w)
        raise KeyError
    assert w.grad is None
    dni.backward(w * w)
    assert w.grad == 6
    with dni.defer_backward():
        dni.backward(w * w)
    assert w.grad == 12


def test_an_empty_block_is_fine():
    with dni.defer_backward():
        assert dni.contexts.deferring()
    assert not dni.contexts.deferring()


def test_blocks_do_not_nest_and_the_outer_one_goes_on():
    w = torch.tensor(3.0, requires_grad=True)
    with dni.defer_backward():
        dni.backward(w * w)
        with pytest.raises(RuntimeError, match="do not nest"), dni.defer_backward():
            pass
    assert w.grad == 6


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ((3.0,), TypeError, "expected a tensor to backpropagate from, got a float"),
        ((torch.ones(()),), RuntimeError, "does not"),
        ((torch.ones(2, requires_grad=True),), RuntimeError, "expected a scalar loss"),
        ((torch.ones(2, requires_grad=True), 1.0), TypeError, "expected a tensor as gradient"),
        (
            (torch.ones(2, requires_grad=True), torch.ones(3)),
            ValueError,
            r"expected \(2,\), got \(3,\)",
        ),
    ],
)
def test_backward_refuses(arguments, error, match):
    with pytest.raises(error, match=match):
        dni.backward(*arguments)
    with pytest.raises(error, match=match), dni.defer_backward():
        dni.backward(*arguments)
