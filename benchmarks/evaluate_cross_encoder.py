"""What a cross-encoder does for questions about modules that it was not trained on: nDCG@10 before and after.

Candidates are the nearest passages by static word embeddings. Needs beautifulsoup4, wordllama, onnxruntime, tokenizers:

    python benchmarks/evaluate_cross_encoder.py MODEL_FOLDER --manual /usr/share/doc/python3.11/html
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from cross_encoder_pairs import Corpus, Question, corpus, near_copies, questions, sample

from svr_retrievers.embedding.local import WordLlamaEmbedder
from svr_retrievers.reranking.cross_encoder import CrossEncoderReranker


def gain(order: Sequence[int], answer: int, copies: Sequence[str]) -> float:
    """nDCG@10 where one passage, or one that says the same, is the answer."""
    found = (place for place, index in enumerate(order[:10]) if copies[index] == copies[answer])
    return next((1 / math.log2(place + 2) for place in found), 0.0)


def held_out(of: Corpus, manual: Path, kind: str, count: int) -> list[Question]:
    """One question per object."""
    first: dict[int, Question] = {}
    for question in questions(of, manual):
        if question.kind == kind and of.held_out(question.answer):
            first.setdefault(question.answer, question)
    return sample(list(first.values()), count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--manual", type=Path, required=True)
    parser.add_argument("--candidates", type=int, default=20)
    parser.add_argument("--questions", type=int, default=200)
    given = parser.parse_args()
    of = corpus()
    texts, copies = of.texts(), near_copies(of)
    embedder, reranker = WordLlamaEmbedder(), CrossEncoderReranker(given.model, threads=1)
    passages = embedder.matrix(texts)
    print(
        f"{'questions':>10} {'number':>7} {'found':>7} {'before':>7} {'after':>7} {'better':>7} {'worse':>6} {'ms':>5}"
    )
    for kind in ("manual", "docstring", "name"):
        asked = held_out(of, given.manual, kind, given.questions)
        near = np.argsort(-(embedder.matrix([q.text for q in asked]) @ passages.T), axis=1, kind="stable")
        before, after, found, seconds = [], [], [], 0.0
        for question, order in zip(asked, near[:, : given.candidates], strict=True):
            started = time.perf_counter()
            scores = np.array(reranker.rerank(question.text, [texts[i] for i in order]))
            seconds += time.perf_counter() - started
            before.append(gain(order, question.answer, copies))
            after.append(gain(order[np.argsort(-scores, kind="stable")], question.answer, copies))
            found.append(any(copies[i] == copies[question.answer] for i in order))
        change = np.subtract(after, before)
        print(
            f"{kind:>10} {len(asked):>7} {np.mean(found):>7.3f} {np.mean(before):>7.3f} {np.mean(after):>7.3f} "
            f"{(change > 0).sum():>7} {(change < 0).sum():>6} {1000 * seconds / len(asked):>5.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
