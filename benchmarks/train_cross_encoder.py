"""Makes the small cross-encoder of the demo: three layers of all-MiniLM-L6-v2, trained on Python's own manual.

Needs PyTorch, transformers, tokenizers, onnx, onnxscript, onnxruntime, beautifulsoup4, wordllama; no network:

    python benchmarks/train_cross_encoder.py --base all-MiniLM-L6-v2/ --manual /usr/share/doc/python3.11/html --out DIR
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from cross_encoder_pairs import Corpus, Question, corpus, near_copies, questions, without_sentence
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import nn
from torch.nn import functional
from transformers import BertConfig, BertModel

from svr_retrievers.embedding.local import WordLlamaEmbedder

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LAYERS, VOCABULARY, TOKENS, POSITIONS = 3, 6_500, 96, 256
QUERIES_A_STEP, PASSAGES_A_QUERY = 6, 6
LEARNING_RATE, HARD, SMOOTHING = 6e-5, 50, 0.1
MIX = {"manual": 0.55, "docstring": 0.3, "name": 0.15}
SMALL_WORDS = frozenset(
    {"a", "an", "the", "of", "to", "is", "are", "be", "it", "its", "that", "this", "in", "on", "for", "by"}
)


class CrossEncoder(nn.Module):
    """One logit a pair: what the first token says, plus how well each query token finds its like in the passage."""

    def __init__(self, encoder: BertModel, size: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.dense, self.out = nn.Linear(size, size), nn.Linear(size, 1)
        self.weight = nn.Linear(size, 1)
        self.scale = nn.Parameter(torch.tensor(10.0))
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.weight.weight)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
    ) -> torch.Tensor:
        hidden = self.encoder(
            input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
        ).last_hidden_state.float()
        word = (input_ids >= len(SPECIAL)).float() * attention_mask
        query, passage = word * (1 - token_type_ids), word * token_type_ids
        unit = functional.normalize(hidden, dim=-1)
        like = unit @ unit.transpose(1, 2) - (1 - passage)[:, None, :] * 4
        best = like.max(dim=-1).values
        weight = functional.softplus(self.weight(hidden)[..., 0]) * query
        match = (best * weight).sum(-1) / weight.sum(-1).clamp(min=1e-6)
        return self.scale * match[:, None] + self.out(torch.tanh(self.dense(hidden[:, 0])))


def trimmed_vocabulary(base: Path, texts: list[str], size: int) -> dict[str, int]:
    """The pieces that English technical text uses most, and every printable character, so that none is unknown."""
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    counts: Counter[str] = Counter()
    for start in range(0, len(texts), 500):
        for encoding in tokenizer.encode_batch(texts[start : start + 500]):
            counts.update(encoding.tokens)
    known = tokenizer.get_vocab()
    letters = [c for n in range(33, 127) for c in (chr(n), f"##{chr(n)}") if c in known]
    wanted = dict.fromkeys((*SPECIAL, *letters, *(t for t, _ in counts.most_common())))
    kept = [token for token in wanted if token in known][:size]
    return {token: known[token] for token in kept}


def write_tokenizer(base: Path, kept: dict[str, int], out: Path) -> Tokenizer:
    body = json.loads((base / "tokenizer.json").read_text())
    new = {token: number for number, token in enumerate(kept)}
    body["model"]["vocab"] = new
    for token in body["added_tokens"]:
        token["id"] = new[token["content"]]
    for name, special in body["post_processor"]["special_tokens"].items():
        special["ids"] = [new[name]]
    body["padding"] = body["truncation"] = None
    (out / "tokenizer.json").write_text(json.dumps(body, ensure_ascii=False))
    return Tokenizer.from_file(str(out / "tokenizer.json"))


def cut_model(base: Path, kept: dict[str, int]) -> CrossEncoder:
    """The first layers and the kept rows of the embedding table."""
    config = BertConfig.from_pretrained(base)
    config.num_hidden_layers, config.vocab_size, config.pad_token_id = LAYERS, len(kept), 0
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    config.max_position_embeddings = POSITIONS
    weights = load_file(base / "model.safetensors")
    places = "embeddings.position_embeddings.weight"
    weights[places] = weights[places][:POSITIONS]
    rows = torch.tensor(list(kept.values()))
    weights["embeddings.word_embeddings.weight"] = weights["embeddings.word_embeddings.weight"][rows]
    encoder = BertModel(config, add_pooling_layer=False)
    missing, _ = encoder.load_state_dict(weights, strict=False)
    assert not [name for name in missing if "position_ids" not in name], missing
    return CrossEncoder(encoder, config.hidden_size)


@dataclass(frozen=True)
class Lessons:
    """What a step is drawn from: questions of modules that are not held out, with passages that look like answers."""

    of: Corpus
    asked: list[Question]
    near: np.ndarray
    copies: list[str]

    def draw(self, rng: random.Random, by_kind: dict[str, list[int]]) -> list[tuple[str, str]]:
        """The question with its answer, then with wrong passages."""
        kind = rng.choices(list(MIX), list(MIX.values()))[0]
        number = rng.choice(by_kind[kind])
        question = self.asked[number]
        wrong = [
            i
            for i in rng.sample(list(self.near[number]), 16)
            if self.copies[i] != self.copies[question.answer]
        ]
        texts = [self.of.documents[i].text for i in (question.answer, *wrong[: PASSAGES_A_QUERY - 1])]
        if kind == "docstring" and rng.random() < 0.7:
            texts[0] = without_sentence(texts[0], question.text)
        asked = _keywords(question, rng)
        return [(asked, text) for text in texts]


def _keywords(question: Question, rng: random.Random) -> str:
    """A fifth of the questions become search words, as people type them."""
    if question.kind == "name" or rng.random() > 0.2:
        return question.text
    words = [w for w in question.text.split() if w.lower() not in SMALL_WORDS]
    return " ".join(words[: rng.randint(3, 12)]) if len(words) > 2 else question.text


def lessons(of: Corpus, manual: Path) -> Lessons:
    asked = [q for q in questions(of, manual) if not of.held_out(q.answer)]
    seen = np.array([not of.held_out(i) for i in range(len(of.documents))])
    model = WordLlamaEmbedder()
    near = _nearest(model.matrix([q.text for q in asked]), model.matrix(of.texts()), seen, HARD)
    return Lessons(of, asked, near, near_copies(of))


def _nearest(queries: np.ndarray, passages: np.ndarray, seen: np.ndarray, count: int) -> np.ndarray:
    scores = queries @ passages.T
    scores[:, ~seen] = -9
    return np.argpartition(-scores, count, axis=1)[:, :count]


def pairs(tokenizer: Tokenizer, rows: list[tuple[str, str]]) -> dict[str, torch.Tensor]:
    encoded = tokenizer.encode_batch(rows)
    fields = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
    return {name: torch.tensor([getattr(e, field) for e in encoded]) for name, field in fields.items()}


def steps(lesson: Lessons, tokenizer: Tokenizer, rng: random.Random) -> Iterator[dict[str, torch.Tensor]]:
    by_kind: dict[str, list[int]] = {kind: [] for kind in MIX}
    for number, question in enumerate(lesson.asked):
        by_kind[question.kind].append(number)
    while True:
        drawn = [lesson.draw(rng, by_kind) for _ in range(QUERIES_A_STEP)]
        yield pairs(tokenizer, [pair for group in drawn for pair in group])


def train(model: CrossEncoder, lesson: Lessons, tokenizer: Tokenizer, seconds: float, kept_in: Path) -> None:
    optimiser = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    model.train()
    began, losses = time.monotonic(), []
    right = torch.zeros(QUERIES_A_STEP, dtype=torch.long)
    for number, inputs in enumerate(steps(lesson, tokenizer, random.Random(11))):  # noqa: S311 - the same on every run
        share = (time.monotonic() - began) / seconds
        if share >= 1:
            break
        optimiser.param_groups[0]["lr"] = (
            LEARNING_RATE * min(1.0, (number + 1) / 50) * (0.5 + 0.5 * math.cos(math.pi * share))
        )
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(**inputs)
        loss = functional.cross_entropy(
            logits.float().view(QUERIES_A_STEP, PASSAGES_A_QUERY), right, label_smoothing=SMOOTHING
        )
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        losses.append(loss.item())
        if number % 50 == 49:
            torch.save(model.state_dict(), kept_in)
            print(f"step {number + 1}, {share:.0%}: loss {np.mean(losses[-50:]):.3f}", flush=True)
    torch.save(model.state_dict(), kept_in)


def export(model: CrossEncoder, tokenizer: Tokenizer, out: Path) -> None:
    """float32 first, then int8 weights; the float file is removed."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model.eval()
    example = pairs(tokenizer, [("a query", "a passage"), ("a query", "a passage that is longer")])
    flexible = {name: {0: "pairs", 1: "tokens"} for name in example}
    whole = out / "float32.onnx"
    torch.onnx.export(
        model, (), str(whole), kwargs=example, input_names=list(example), output_names=["logits"],
        dynamic_axes={**flexible, "logits": {0: "pairs"}}, opset_version=17, dynamo=False,
    )  # fmt: skip
    quantize_dynamic(whole, out / "model.onnx", weight_type=QuantType.QInt8, per_channel=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, required=True, help="folder of all-MiniLM-L6-v2")
    parser.add_argument("--manual", type=Path, required=True, help="folder of Python's manual as HTML")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=25)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(5)
    given.out.mkdir(parents=True, exist_ok=True)
    lesson = lessons(corpus(), given.manual)
    written = [q.text for q in lesson.asked] + lesson.of.texts()
    kept = trimmed_vocabulary(given.base, written, VOCABULARY)
    tokenizer = write_tokenizer(given.base, kept, given.out)
    tokenizer.enable_truncation(TOKENS)
    tokenizer.enable_padding()
    model = cut_model(given.base, kept)
    train(model, lesson, tokenizer, given.minutes * 60, given.out / "weights.pt")
    export(model, tokenizer, given.out)
    config = {
        "model_type": "bert",
        "num_labels": 1,
        "max_position_embeddings": POSITIONS,
        "vocab_size": len(kept),
    }
    (given.out / "config.json").write_text(json.dumps(config, indent=1))


if __name__ == "__main__":
    main()
