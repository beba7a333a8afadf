"""A predicted activation and a predicted gradient at one cut: nobody waits."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from dni import _trees
from dni.interfaces.backward import BackwardInterface
from dni.interfaces.forward import ForwardInterface
from dni.interfaces.unidirectional import Prediction


class BidirectionalInterface(nn.Module):
    r"""A :class:`ForwardInterface` and a :class:`BackwardInterface` at one cut.

    Part B runs on a synthetic input, part A learns from a synthetic gradient: a
    *complete unlock*. Called as ``interface(message, trigger)``, with :math:`h` the
    message:

    1. :math:`s = r_g \, S_g(h)` is sent into part A (as :class:`BackwardInterface`);
    2. :math:`\hat h = r_h \, S_h(\text{trigger})` goes on to part B, and :math:`S_h` is
       taught :math:`h` (as :class:`ForwardInterface`);
    3. the gradient that B sends back at :math:`\hat h` is taught to :math:`S_g`, as that of
       :math:`h`.

    In separate processes, A calls :meth:`send` and B calls :meth:`receive`, each on its
    own copy of the interface; synchronise the copies once in a while. B does not have :math:`h`:
    there :math:`S_g` learns from :math:`\hat h` and its gradient.

    Args:
        forward_synthesizer: predicts the message from the trigger.
        backward_synthesizer: predicts its gradient from the message.
        unlock: see :class:`BackwardInterface`; it holds for both.
        mix, factor: likewise, for the gradient that part A receives; to change them later,
            set them on ``backward_interface``. Part B runs on a synthetic input whatever
            ``mix`` is.
        normalize, nonfinite, name: see :class:`UnidirectionalInterface`.

    Shapes:
        message, trigger and output: see :class:`ForwardInterface`.

    See Jaderberg et al. 2017, section 2.2.

    Example:
        >>> interface = dni.BidirectionalInterface(
        ...     dni.BasicSynthesizer(output_dim=3, trigger_dim=2),
        ...     dni.BasicSynthesizer(output_dim=3),
        ... )
        >>> A, x = torch.nn.Linear(2, 3), torch.ones(4, 2)
        >>> interface(A(x), x).shape
        torch.Size([4, 3])
    """

    def __init__(
        self,
        forward_synthesizer: nn.Module,
        backward_synthesizer: nn.Module,
        *,
        unlock: bool = True,
        mix: float = 0.0,
        factor: float = 1.0,
        normalize: bool | None = None,
        nonfinite: str = "raise",
        name: str | None = None,
    ) -> None:
        super().__init__()
        common: dict[str, Any] = {
            "unlock": unlock,
            "normalize": normalize,
            "nonfinite": nonfinite,
            "name": name,
        }
        self.forward_interface = ForwardInterface(forward_synthesizer, **common)
        self.backward_interface = BackwardInterface(
            backward_synthesizer, mix=mix, factor=factor, **common
        )

    def forward(self, message: Any, trigger: Any) -> Any:
        """The synthetic message for ``trigger``; a synthetic gradient is sent into ``message``."""
        leaves, rebuild = _trees.flatten(message, self.backward_interface.who)
        ahead, back = self._ask_both(leaves, trigger)
        if ahead is None and back is None:
            self.forward_interface._sends_in(False)
            self.backward_interface._sends_in(False)
            return message
        if ahead is not None:
            real = [leaf.detach() for leaf in leaves]
            ahead = self.forward_interface._learn_early(real, ahead)
        if back is not None:
            leaves = list(self.backward_interface._cut(leaves, back))
        if ahead is not None:
            leaves = list(self.forward_interface._substitute(leaves, ahead))
        return rebuild(leaves)

    def send(self, message: Any, trigger: Any) -> None:
        """Part A's end: teach the real message, and send a synthetic gradient into it."""
        leaves, _ = _trees.flatten(message, self.backward_interface.who)
        ahead, back = self._ask_both(leaves, trigger)
        if ahead is not None:
            self.forward_interface._regress(leaves, ahead)
        if back is not None:
            self.backward_interface._send_upstream(leaves, back, self.backward_interface.factor)

    def receive(self, trigger: Any) -> Any:
        """Part B's end: a synthetic message, as one tensor that intercepts its real gradient."""
        return self.backward_interface.make_trigger(self.forward_interface.receive(trigger))

    def _ask_both(
        self, leaves: list[Tensor], trigger: Any
    ) -> tuple[Prediction | None, Prediction | None]:
        """Both predictions, checked before either is used; ``None`` for a side in eval mode."""
        forward, backward = self.forward_interface, self.backward_interface
        ahead = back = None
        if forward._learning:
            known, _ = _trees.flatten(trigger, forward.who)
            ahead = forward._predict(known, leaves)
        if backward._learning:
            back = backward._ask(leaves)
        return ahead, back
