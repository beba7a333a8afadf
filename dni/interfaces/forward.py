"""A predicted activation: part B need not wait for part A's forward pass."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from dni import _trees
from dni._autograd import Substitute
from dni.contexts import deferring
from dni.interfaces.unidirectional import Prediction, UnidirectionalInterface


class ForwardInterface(UnidirectionalInterface):
    r"""Predicts part B's *input*, so that B can run before part A has.

    Called as ``interface(message, trigger)`` where both are at hand. The synthesizer is
    taught the real message :math:`h`, and the synthetic one takes its place,

    .. math:: \hat h = r \, S(\text{trigger}),

    so that nothing of ``message`` itself reaches part B, and no gradient goes back into it.

    Args:
        unlock: teach the synthesizer during the forward pass (``True``), or together
            with the loss's backward pass (``False``), as compiled regions and DDP need.
        synthesizer, normalize, nonfinite, name: see :class:`UnidirectionalInterface`.

    Shapes:
        message and output: a tensor of any shape, or a tuple, list or dict of tensors whose
        leading sizes agree; trigger: whatever the synthesizer takes.

    Example:
        >>> synthesizer = dni.BasicSynthesizer(output_dim=3, trigger_dim=2)
        >>> interface = dni.ForwardInterface(synthesizer)
        >>> h, x = torch.ones(4, 3), torch.ones(4, 2)
        >>> interface(h, x).abs().max()    # a new synthesizer predicts 0
        tensor(0.)
        >>> torch.equal(interface.eval()(h, x), h)
        True
    """

    def __init__(
        self,
        synthesizer: nn.Module,
        *,
        unlock: bool = True,
        normalize: bool | None = None,
        nonfinite: str = "raise",
        name: str | None = None,
    ) -> None:
        super().__init__(synthesizer, normalize=normalize, nonfinite=nonfinite, name=name)
        self.unlock = unlock

    def forward(self, message: Any, trigger: Any) -> Any:
        """Teach the real message, and return the synthetic one for ``trigger``."""
        if not self._learning:
            self._sends_in(False)
            return message
        real, rebuild = _trees.flatten(message, self.who)
        known, _ = _trees.flatten(trigger, self.who)
        real = [leaf.detach() for leaf in real]
        return rebuild(self._substitute(real, self._learn_early(real, self._predict(known, real))))

    @property
    def _early(self) -> bool:
        """Whether the synthesizer is taught during this forward pass."""
        return self.unlock and not deferring()

    def _learn_early(self, real: list[Tensor], predicted: Prediction) -> Prediction:
        """In the early form, teach ``real`` now and detach the prediction; else do nothing."""
        if not self._early:
            return predicted
        self._sends_in(True)
        self._regress(real, predicted)
        return predicted._replace(output=predicted.output.detach())

    def _substitute(self, real: list[Tensor], predicted: Prediction) -> tuple[Tensor, ...]:
        """Synthetic values in place of ``real``; a gradient goes straight through to ``real``."""
        return Substitute.apply(*predicted, self._early, self, *real)  # type: ignore[no-untyped-call, no-any-return]
