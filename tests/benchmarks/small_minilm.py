"""A prepared folder as `benchmarks.sst2` writes it: a tiny random BERT and made-up sentences."""

from pathlib import Path

import numpy as np
import torch

from benchmarks.sst2 import MAX_TOKENS, MiniLm, Sentences, write_prepared

TOKENS, GOOD, BAD = 60, 7, 8
CONFIG = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "vocab_size": TOKENS,
    "max_position_embeddings": MAX_TOKENS,
    "pad_token_id": 0,
    "type_vocab_size": 2,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def write_small(out: Path, counts: tuple[int, int, int] = (400, 60, 60)) -> Path:
    """The label is whether the sentence holds the good token or the bad one; all sentences differ."""
    generator = np.random.default_rng(0)
    lengths = generator.integers(3, MAX_TOKENS + 1, sum(counts))
    labels = generator.integers(0, 2, len(lengths))
    rows = []
    for length, label in zip(lengths, labels, strict=True):
        row = generator.integers(10, TOKENS, length)
        row[1] = GOOD if label else BAD
        rows.append(row)
    torch.manual_seed(0)
    weights = MiniLm(CONFIG).bert.state_dict()
    sentences = Sentences(
        tokens=np.concatenate(rows).astype(np.uint16),
        offsets=np.cumsum([0, *map(len, rows)]).astype(np.int64),
        labels=labels.astype(np.int64),
        parts=np.repeat(np.arange(3), counts),
    )
    return write_prepared(out, CONFIG, weights, sentences, {"made": "up"})
