"""Three places for an interface, with the words of the code."""

from __future__ import annotations

from examples.pictures import BLUE, GREEN, RED
from images.sheet import FORWARD, INPUT, REAL, SYNTHESIZER, SYNTHETIC, UNLOCKED, Sheet


def backward_side(sheet: Sheet, y: float) -> None:
    """The synthesizer of a gradient, on the right of the cut at height ``y``."""
    sheet.box((8.6, y), "synthesizer", SYNTHESIZER, 2.6)
    sheet.arrow((8.6, y - 0.55), (4.55, y - 1.75), BLUE, bend=-0.25)
    sheet.text((7.95, y - 1.6), "synthetic gradient s", BLUE, ha="left")
    sheet.objective((8.6, y + 1.3))
    sheet.arrow((8.6, y + 0.55), (8.6, y + 1.13), BLUE)


def update_unlock() -> None:
    """Part A learns from a synthetic gradient."""
    sheet = Sheet(13, 9.7)
    sheet.axes.set(xlim=(-1, 12), ylim=(-0.6, 9.1))
    sheet.text((3, 1.55), "input")
    sheet.arrow((3, 1.8), (3, 2.35))
    sheet.box((3, 2.9), "part A")
    sheet.arrow((3, 3.45), (3, 6.3), style="--")
    sheet.box((3, 6.85), "part B")
    sheet.arrow((3, 7.4), (3, 8.3))
    sheet.text((3, 8.6), "loss")
    sheet.text((2.75, 4.4), "h", ha="right")
    sheet.text((2.75, 5.15), "BackwardInterface", ha="right", weight="bold")
    sheet.arrow((3.0, 4.65), (7.25, 4.65))
    sheet.text((5.1, 4.9), "trigger h")
    backward_side(sheet, 4.65)
    sheet.arrow((4.55, 6.7), (8.42, 5.98), GREEN)
    sheet.text((6.2, 6.8), "real gradient g", GREEN, ha="left")
    sheet.arrow((11.3, 4.65), (9.95, 4.65))
    sheet.text((11.2, 4.95), "context")
    sheet.legend(FORWARD, UNLOCKED, REAL, SYNTHETIC, ncols=2)
    sheet.save("feedforward-update-unlock", png=True)


def complete_unlock() -> None:
    """Part B runs on a synthetic input besides."""
    sheet = Sheet(16.7, 9.6)
    sheet.axes.set_xlim(-4.7, 12)
    sheet.text((3, 1.55), "input")
    sheet.arrow((3, 1.8), (3, 2.35))
    sheet.box((3, 2.9), "part A")
    sheet.arrow((3, 3.45), (3, 4.65))
    sheet.text((3.25, 4.05), "h", ha="left")
    sheet.box((3, 7.45), "part B")
    sheet.arrow((3, 8.0), (3, 8.9))
    sheet.text((3, 9.2), "loss")
    sheet.text((3, 5.5), "BidirectionalInterface", weight="bold")
    # forward: the trigger is what both parts know
    sheet.arrow((2.5, 1.55), (-2.2, 4.1), bend=-0.25)
    sheet.text((-1.4, 2.0), "trigger (input)")
    sheet.box((-2.2, 4.65), "synthesizer", SYNTHESIZER, 2.6)
    sheet.arrow((-2.2, 5.2), (1.45, 7.45), RED, bend=-0.3)
    sheet.text((-2.3, 7.1), "synthetic input", RED)
    sheet.objective((1.05, 4.65))
    sheet.arrow((3, 4.65), (1.22, 4.65))
    sheet.arrow((-0.85, 4.65), (0.88, 4.65), RED)
    sheet.text((1.05, 4.15), "send", style="italic")
    sheet.text((0.9, 7.85), "receive", style="italic", ha="right")
    # backward
    sheet.arrow((3.0, 4.65), (7.25, 4.65))
    sheet.text((5.3, 4.9), "trigger h")
    backward_side(sheet, 4.65)
    sheet.arrow((4.55, 7.3), (8.42, 6.0), GREEN)
    sheet.text((6.4, 7.1), "real gradient g", GREEN, ha="left")
    sheet.legend(FORWARD, INPUT, REAL, SYNTHETIC)
    sheet.save("feedforward-complete-unlock", png=True)


def recurrent_unlock() -> None:
    """A synthetic gradient stands in for the windows to come."""
    sheet = Sheet(16.7, 7.4)
    for window, left in enumerate((0.9, 9.8)):
        for step in range(3):
            x, t = left + 1.8 * step, 3 * window + step + 1
            sheet.box((x, 3.6), "core", width=1.1)
            sheet.text((x, 2.1), f"$x_{t}$")
            sheet.arrow((x, 2.4), (x, 3.05))
            sheet.arrow((x, 4.15), (x, 4.8))
            sheet.text((x, 5.1), f"$L_{t}$")
            if step:
                sheet.arrow((x - 1.2, 3.8), (x - 0.6, 3.8))
                sheet.arrow((x - 0.6, 3.4), (x - 1.2, 3.4), GREEN)
        sheet.text((left + 1.8, 6.6), f"window {window + 1}", weight="bold")
    sheet.text((16.2, 3.6), ". . .")
    # the cut between the windows
    sheet.arrow((5.1, 3.8), (9.2, 3.8), style="--")
    sheet.text((7.15, 3.5), "h")
    sheet.box((7.15, 6.6), "synthesizer", SYNTHESIZER, 2.4)
    sheet.arrow((7.15, 3.8), (7.15, 6.05))
    sheet.text((7.3, 5.2), "trigger h", ha="left")
    sheet.arrow((6.2, 6.05), (5.1, 3.4), BLUE, bend=-0.2)
    sheet.text((5.8, 5.6), "backward(h)", BLUE, ha="right")
    sheet.objective((8.9, 5.5))
    sheet.arrow((8.0, 6.05), (8.75, 5.6), BLUE)
    sheet.arrow((9.2, 3.4), (8.85, 5.32), GREEN, bend=-0.6)
    sheet.text((7.7, 2.85), "make_trigger(h)", GREEN)
    # the bootstrapped target: what the next cut sends is on its way back too
    sheet.arrow((15.2, 5.5), (14.0, 3.4), BLUE, bend=-0.25)
    sheet.text((15.0, 5.85), "backward(h')", BLUE)
    sheet.text(
        (11.6, 1.45), "target of s(h): the window's own gradient + what s(h') sends back", GREEN
    )
    sheet.legend(FORWARD, UNLOCKED, REAL, SYNTHETIC)
    sheet.save("rnn-update-unlock", png=True)


FIGURES = {
    "feedforward-update-unlock": update_unlock,
    "feedforward-complete-unlock": complete_unlock,
    "rnn-update-unlock": recurrent_unlock,
}
