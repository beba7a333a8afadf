"""``make demo``: does it work? One network, four ways to train it, a table, a picture.

The data are the handwritten digits that scikit-learn carries; nothing is downloaded.
Each row is the mean over three seeds.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import torch

from examples import pictures, training
from examples.data import load
from examples.mnist_mlp.main import Network

ARMS = {
    "backprop": {"decoupled": False},
    "DNI": {"decoupled": True},
    "DNI replay": {"decoupled": True},
    "cDNI": {"decoupled": True, "context": True},
}
REPLAY = {"DNI replay": 3}  # earlier messages that join each regression


def main() -> None:
    """Train each arm with each seed; print the table, write the picture."""
    parser = training.options(__doc__.splitlines()[0])
    parser.set_defaults(steps=600, batch=128)
    parser.add_argument("--seeds", type=int, default=3, help="how many, from --seed on")
    parser.add_argument("--picture", type=Path, default=Path("results/demo.png"))
    arguments = training.parse(parser)

    torch.set_num_threads(1)  # matrices this small gain little from two, and lose on a busy machine
    data = load(arguments.data).to(arguments.device)
    rates = (arguments.lr, training.FASTER * arguments.lr)
    outcomes: dict[str, list[training.Outcome]] = {arm: [] for arm in ARMS}
    for arm, form in ARMS.items():
        for seed in range(arguments.seed, arguments.seed + arguments.seeds):
            torch.manual_seed(seed)
            model = Network(data.train_x[0].numel(), **form).to(arguments.device)
            loop = (arguments.steps, arguments.batch, rates, seed, REPLAY.get(arm, 0))
            outcomes[arm].append(training.train(model, data, *loop, f"{arm:10s} seed {seed}"))

    print_table(outcomes)
    if arguments.json:
        training.write_json(arguments.json, arguments, outcomes)
    draw(outcomes, arguments.picture)
    print(arguments.picture)


def print_table(outcomes: dict[str, list[training.Outcome]]) -> None:
    """Test error, synthesizer loss, cosine of the gradients, cost."""
    print(f"{'':10s} {'test error':>10s} {'synthesizer loss':>17s} {'cosine':>7s} {'ms/step':>8s}")
    for arm, runs in outcomes.items():
        error = mean([run.test_error for run in runs])
        cost = sorted(run.ms_per_step for run in runs)[len(runs) // 2]
        loss, cosine = (
            f"{mean(values):.2f}" if None not in values else "-"
            for values in ([run.synthesizer_loss for run in runs], [run.cosine for run in runs])
        )
        print(f"{arm:10s} {error:>8.2f} % {loss:>17s} {cosine:>7s} {cost:>8.1f}")


def draw(outcomes: dict[str, list[training.Outcome]], path: Path) -> None:
    """Test error over steps: the mean as a line, the seeds as a band."""
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for arm, runs in outcomes.items():
        steps = [step for step, _ in runs[0].curve]
        errors = torch.tensor([[error for _, error in run.curve] for run in runs])
        axes.plot(steps, errors.mean(0), color=pictures.ARMS[arm], label=arm)
        axes.fill_between(
            steps, errors.amin(0), errors.amax(0), color=pictures.ARMS[arm], alpha=0.15, linewidth=0
        )
    axes.set(
        xlabel="step", ylabel="test error, %", yscale="log", title="Handwritten digits, 3 x 256"
    )
    limits = axes.get_ylim()
    axes.set_yticks([1, 2, 5, 10, 20, 50, 90], ["1", "2", "5", "10", "20", "50", "90"])
    axes.set_ylim(limits)
    axes.minorticks_off()
    axes.grid()
    axes.legend()
    pictures.save(figure, path)


def mean(values: list[float]) -> float:
    """The arithmetic mean."""
    return sum(values) / len(values)


if __name__ == "__main__":
    main()
