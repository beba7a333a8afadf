"""Text from a checkpoint: ``python -m examples.penn_treebank.generate CHECKPOINT``."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from examples.penn_treebank.model import LanguageModel
from examples.text import decode


@torch.no_grad()
def generate(model: LanguageModel, count: int, temperature: float, seed: int) -> list[int]:
    """``count`` tokens, each drawn from what the model expects after those before it."""
    generator = torch.Generator().manual_seed(seed)
    token, state, drawn = torch.zeros(1, 1, dtype=torch.long), None, []
    for _ in range(count):
        scores, state = model(token, state)
        chances = torch.softmax(scores[-1, 0] / temperature, 0)
        token = torch.multinomial(chances, 1, generator=generator).view(1, 1)
        drawn.append(int(token))
    return drawn


def main() -> None:
    """Generate with the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path, help="what --save wrote")
    parser.add_argument("--count", type=int, default=400, help="tokens")
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    saved = torch.load(arguments.checkpoint, map_location="cpu")
    flags = saved["arguments"]
    sizes = (flags[name] for name in ("model", "embedding", "units", "layers", "tied"))
    model = LanguageModel(len(saved["tokens"]), *sizes)
    model.load_state_dict(saved["model"])
    drawn = generate(model, arguments.count, arguments.temperature, arguments.seed)
    print(decode(saved["tokens"], drawn))


if __name__ == "__main__":
    main()
