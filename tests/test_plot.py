"""Pictures: a figure is returned, axes are taken, and what is drawn is what was measured."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import nn

import dni
from dni import plot
from dni.diagnostics import Monitor
from tests.cases import Chain, batch, synthesizer


@pytest.fixture
def monitor() -> Monitor:
    model = Chain(lambda: dni.BackwardInterface(synthesizer(), unlock=False))
    with Monitor(model) as made:
        for _ in range(3):
            x, y = batch()
            F.cross_entropy(model(x), y).backward()
            made.read()
    return made


def test_curves_are_the_history(monitor: Monitor) -> None:
    figure = plot.curves(monitor, "norm_ratio")
    lines = figure.axes[0].lines
    assert [line.get_label() for line in lines] == list(monitor.history())
    for line, seen in zip(lines, monitor.history().values(), strict=True):
        assert list(line.get_ydata()) == [measured.norm_ratio for measured in seen]


def test_colours_are_the_cosines(monitor: Monitor) -> None:
    (image, *_) = plot.cosines(monitor).axes[0].images
    expected = [[measured.cosine for measured in seen] for seen in monitor.history().values()]
    assert image.get_array().tolist() == expected


def test_they_draw_into_axes_that_are_there(monitor: Monitor) -> None:
    figure = Figure()
    left, middle, right = figure.subplots(1, 3)
    assert plot.curves(monitor, ax=left) is figure
    assert plot.cosines(monitor, ax=middle) is figure
    assert plot.cuts(nn.Linear(2, 2), ax=right) is figure
    assert all(axes.has_data() for axes in (left, middle, right))


def test_cuts_stand_where_the_model_has_them() -> None:
    blocks = [nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(2)]
    model = nn.Sequential(*blocks, nn.Linear(4, 2))
    dni.decouple(model, at=["0", "1.0"])
    words = [text.get_text() for text in plot.cuts(model).axes[0].texts]
    assert words == [
        "0.0  Linear", "0.1  ReLU", "cut", "1.0  Linear", "cut", "1.1  ReLU", "2  Linear",
    ]  # fmt: skip


def test_a_cut_both_ways_is_one_and_a_module_used_twice_is_two() -> None:
    both = dni.BidirectionalInterface(dni.BasicSynthesizer(4), dni.BasicSynthesizer(4))
    words = plot.cuts(nn.Sequential(nn.Linear(2, 4), both, nn.Linear(4, 2))).axes[0].texts
    assert [text.get_text() for text in words] == ["0  Linear", "cut", "2  Linear"]
    act = nn.ReLU()
    model = nn.Sequential(nn.Linear(2, 2), act, nn.Linear(2, 2), act, nn.Linear(2, 2))
    words = plot.cuts(dni.decouple(model, "1")).axes[0].texts
    assert [text.get_text() for text in words].count("cut") == 2


def test_a_deep_model_is_drawn_from_further_away() -> None:
    model = nn.Sequential(*(nn.Sequential(*(nn.Linear(2, 2) for _ in range(9))) for _ in range(9)))
    dni.decouple(model, at=["4", "6.2"])
    words = [text.get_text() for text in plot.cuts(model).axes[0].texts]
    assert words == [
        *(f"{n}  Sequential" for n in range(5)), "cut", "5  Sequential",
        "6  Sequential  (1 cut inside)", "7  Sequential", "8  Sequential",
    ]  # fmt: skip


def test_bad_input_is_named(monitor: Monitor) -> None:
    with pytest.raises(ValueError, match=r"dni\.plot\.curves: expected quantity='loss' or"):
        plot.curves(monitor, "speed")
    model = Chain(lambda: dni.BackwardInterface(synthesizer(), unlock=False))
    with pytest.raises(ValueError, match=r"expected a monitor that has been read"):
        plot.cosines(Monitor(model))


def test_scalars_go_to_a_writer_or_a_run(monitor: Monitor) -> None:
    class Writer:
        def __init__(self) -> None:
            self.seen: dict[str, tuple[float, int]] = {}

        def add_scalar(self, name: str, value: float, step: int) -> None:
            self.seen[name] = (value, step)

    class Run:
        def log(self, values: dict[str, float], step: int) -> None:
            self.seen = {name: (value, step) for name, value in values.items()}

    writer, run = Writer(), Run()
    monitor.log(writer, 7)
    monitor.log(run, 7)
    assert writer.seen == run.seen
    assert writer.seen["dni/cuts.0/cosine"] == (monitor.history()["cuts.0"][-1].cosine, 7)
    with pytest.raises(TypeError, match="expected a SummaryWriter .* got a list"):
        monitor.log([], 7)


def test_tensorboard_can_read_them(monitor: Monitor, tmp_path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        monitor.log(writer, 3)
    found = EventAccumulator(str(tmp_path))
    found.Reload()
    (event,) = found.Scalars("dni/cuts.1/loss")
    assert event.step == 3
    assert event.value == pytest.approx(torch.tensor(monitor.scalars()["dni/cuts.1/loss"]).item())
