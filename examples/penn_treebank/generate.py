"""Text from a checkpoint: ``python -m examples.penn_treebank.generate CHECKPOINT``."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from examples.penn_treebank.model import LanguageModel
from examples.text import Corpus, load


@torch.no_grad()
def generate(
    model: LanguageModel, corpus: Corpus, count: int, temperature: float, seed: int
) -> str:
    """``count`` tokens, each drawn from what the model expects after those before it."""
    generator = torch.Generator().manual_seed(seed)
    token, state, drawn = corpus.valid[:1].view(1, 1), None, []
    for _ in range(count):
        scores, state = model(token, state)
        chances = torch.softmax(scores[-1, 0] / temperature, 0)
        token = torch.multinomial(chances, 1, generator=generator).view(1, 1)
        drawn.append(int(token))
    return corpus.decode(drawn)


def main() -> None:
    """Generate with the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path, help="what --save wrote")
    parser.add_argument("--data", help="what it was trained on: --data of the training")
    parser.add_argument("--count", type=int, default=400, help="tokens")
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    saved = torch.load(arguments.checkpoint, map_location="cpu")
    flags = saved["arguments"]
    corpus = load(arguments.data, flags["level"])
    sizes = (flags[name] for name in ("model", "embedding", "units", "layers", "tied"))
    model = LanguageModel(len(corpus.tokens), *sizes)
    model.load_state_dict(saved["model"])
    print(generate(model, corpus, arguments.count, arguments.temperature, arguments.seed))


if __name__ == "__main__":
    main()
