"""The auxiliary task of recurrent networks: predict the next synthetic gradient."""

from __future__ import annotations

from typing import Any

from torch import nn

from dni import _checks, _trees
from dni.contexts import backward_all
from dni.interfaces import UnidirectionalInterface


class AuxiliaryTask(UnidirectionalInterface):
    r"""Predicts, from a state, the synthetic gradient at the end of the *next* window.

    With :math:`h_k` the state after window :math:`k`, :math:`P` the predictor and
    :math:`s(h_{k+1})` the synthetic gradient that the next window ends with,

    .. math::
        L^{aux}_{k+1} = \frac{1}{n} \sum_i
            \Big(P(h_k)_i - \frac{s(h_{k+1})_i}{r}\Big)^2,

    where :math:`r` is a running scale (:mod:`dni._objective`). The loss belongs to window
    :math:`k+1`, where its target is known. Unlike the loss of a synthesizer, it reaches the
    state: :math:`\mathit{weight} \cdot \partial L^{aux} / \partial h_k` arrives at the
    trigger :math:`h_k` together with the gradient of the window's own loss. From there on it
    is treated like every later loss: the interface's synthesizer learns it, and sends it
    into the core that made :math:`h_k`. So the core learns to keep in its state what the
    window after the next will ask for.

    Args:
        synthesizer: the predictor; any synthesizer for the state.
        weight: the weight of the task beside the losses of the network. Each window adds one
            such loss: on digits read row by row, 0.1 did no harm over four windows, and much
            harm over fourteen (``benchmarks/README.rst``).
        normalize, nonfinite, name: see :class:`dni.UnidirectionalInterface`.

    Shapes:
        trigger and message: those of a state, a tensor or a structure of tensors.

    See Jaderberg et al. 2017, section 2.1.

    Example:
        >>> task = dni.AuxiliaryTask(dni.BasicSynthesizer(output_dim=2), weight=1.0)
        >>> torch.nn.init.ones_(task.synthesizer.input_trigger.weight)
        Parameter containing:
        tensor([[1., 1.],
                [1., 1.]], requires_grad=True)
        >>> start = torch.tensor([[0.5, 0.0]], requires_grad=True)
        >>> task.send(torch.tensor([[1.0, 1.0]]), start)    # predicted: 0.5, 0.5
        >>> start.grad.round()
        tensor([[-1., -1.]])
    """

    def __init__(
        self,
        synthesizer: nn.Module,
        *,
        weight: float = 0.1,
        normalize: bool | None = None,
        nonfinite: str = "raise",
        name: str | None = None,
    ) -> None:
        super().__init__(synthesizer, normalize=normalize, nonfinite=nonfinite, name=name)
        self.weight = _checks.factor(weight, self.who, "weight")

    def send(self, message: Any, trigger: Any) -> None:
        r"""Teach the predictor, and send the gradient of its loss into ``trigger``.

        Args:
            message: the synthetic gradient of the window's last state.
            trigger: the window's first state, with its graph.
        """
        if not self._learning:
            return
        real, _ = _trees.flatten(message, self.who)
        known, _ = _trees.flatten(trigger, self.who)
        output, snapshot = self._predict(known, real, attached=True)
        if not output.requires_grad:
            return
        self._may_backpropagate()
        target = _trees.join([tensor.detach() for tensor in real], self.who)
        if not any(parameter.requires_grad for parameter in self.synthesizer.parameters()):
            target, snapshot = self.objective.divided(target, snapshot), None  # its scale stays
        gradient = self.objective.gradient(output, target, snapshot, True, self.who)
        if gradient is not None:
            backward_all([(output, self.weight * gradient)], self.who)
