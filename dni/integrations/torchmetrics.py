r"""Metrics that compare synthetic and real messages, and add up over processes.

They need ``torchmetrics``. For messages :math:`s_i` (synthetic) and :math:`m_i` (real),

.. math::
    \text{GradientCosine} = \frac1n \sum_i \frac{\langle s_i, m_i\rangle}
        {\lVert s_i\rVert \lVert m_i\rVert}, \qquad
    \text{RelativeError} = \sqrt{\frac{\sum_i \lVert s_i - m_i\rVert^2}
        {\sum_i \lVert m_i\rVert^2}} .
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from dni import _checks

__all__ = ["GradientCosine", "RelativeError"]


class GradientCosine(Metric):
    """The mean cosine of synthetic and real messages; 1 is perfect, 0 is noise.

    Example:
        >>> from dni.integrations.torchmetrics import GradientCosine
        >>> metric = GradientCosine()
        >>> metric.update(torch.tensor([1.0, 0.0]), torch.tensor([2.0, 0.0]))
        >>> metric.update(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 3.0]))
        >>> metric.compute()
        tensor(0.5000)
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    total: Tensor
    messages: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("messages", torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, synthetic: Tensor, real: Tensor) -> None:
        """Add a message."""
        _checks.same_shapes(synthetic, real, type(self).__name__)
        s, m = synthetic.detach().flatten().float(), real.detach().flatten().float()
        self.total += torch.nn.functional.cosine_similarity(s, m, dim=0)
        self.messages += 1

    def compute(self) -> Tensor:
        """Over all messages so far."""
        return self.total / self.messages


class RelativeError(Metric):
    """The error of synthetic messages over the size of the real ones; predicting 0 gives 1.

    Example:
        >>> from dni.integrations.torchmetrics import RelativeError
        >>> metric = RelativeError()
        >>> metric.update(torch.tensor([0.0, 0.0]), torch.tensor([3.0, 4.0]))
        >>> metric.compute()
        tensor(1.)
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    error: Tensor
    size: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("error", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("size", torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, synthetic: Tensor, real: Tensor) -> None:
        """Add a message."""
        _checks.same_shapes(synthetic, real, type(self).__name__)
        m = real.detach().float()
        self.error += (synthetic.detach().float() - m).square().sum()
        self.size += m.square().sum()

    def compute(self) -> Tensor:
        """Over all messages so far."""
        return (self.error / self.size).sqrt()
