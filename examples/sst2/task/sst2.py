"""Sentiment of film reviews (SST-2): a small text classifier with two inputs. Source: see README.md."""

import os
from pathlib import Path

import numpy as np
import torch
from torch import nn

from reprune.task.bases import Examples, TextClassification, hash_tokens

FOLDER = Path(os.environ.get("REPRUNE_DATA", "../shared/data")) / "sst2"
FILES = {"train": "train.tsv", "tune": "dev.tsv", "eval": "test.tsv"}
BUCKETS, LENGTH = 8192, 40


class Sst2Task(TextClassification):
    def __init__(self):
        texts, labels, ids, splits, seen = [], [], [], {}, set()
        for split, name in reversed(FILES.items()):
            splits[split] = []
            for line, row in enumerate((FOLDER / name).read_text(encoding="utf-8").splitlines()):
                text, _, label = row.rpartition("\t")
                # A sentence that is judged is not trained on.
                if text in seen:
                    continue
                seen.add(text)
                splits[split].append(len(texts))
                texts.append(text)
                labels.append(int(label))
                ids.append(f"{split}-{line:04d}")
        words = [len(text.split()) for text in texts]
        examples = Examples(
            inputs=hash_tokens(texts, buckets=BUCKETS, length=LENGTH),
            targets=np.array(labels),
            ids=ids,
            slices={
                "length": ["short" if n < 12 else "long" if n > 24 else "medium" for n in words]
            },
        )
        super().__init__(examples, splits, batch_size=64)

    def model(self):
        return TextNet()

    def optimizer(self, params):
        return torch.optim.AdamW(params, lr=4e-3, weight_decay=1e-2)


class TextNet(nn.Module):
    """Embedding, two convolutions over words, the largest over words."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(BUCKETS, 64)
        self.drop = nn.Dropout(0.3)
        self.wide = nn.Conv1d(64, 128, kernel_size=3, padding=1)
        self.norm = nn.BatchNorm1d(128)
        self.deep = nn.Conv1d(128, 128, kernel_size=3, padding=1)
        self.head = nn.Linear(128, 2)

    def forward(self, ids, mask):
        mask = mask[:, None]
        x = self.drop(self.embed(ids)).transpose(1, 2) * mask
        x = torch.relu(self.norm(self.wide(x))) * mask
        x = torch.relu(self.deep(x)) * mask
        return self.head(x.amax(dim=2))
