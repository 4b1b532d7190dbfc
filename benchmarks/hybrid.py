"""Vectors, words and their fusions on known-item questions about the demo corpus: prints the table.

    python benchmarks/hybrid.py [URL | memory://] [--text-search english] [--limit N] [--reranker FOLDER | none]

Without a URL the embedded server is used, in a folder that is removed afterwards. `--limit` takes about so many
documents of the corpus, those that are asked for among them. The last row is the fused ranking read once more by the
package's small cross-encoder, or by the one in the folder that `--reranker` names.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from svr_retrievers import SVRClient
from svr_retrievers.demo.reranker import demo_reranker
from svr_retrievers.demo.standard_library import standard_library_corpus
from svr_retrievers.embedding.local import WordLlamaEmbedder
from svr_retrievers.evaluation import compare, known_items, table, thinned, ways
from svr_retrievers.reranking.cross_encoder import CrossEncoderReranker

NAME = "known items"


@contextmanager
def opened(url: str | None) -> Iterator[SVRClient]:
    if url is not None:
        with SVRClient(url) as client:
            yield client
        return
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, SVRClient(path=folder) as client:
        yield client


def chosen(name: str) -> CrossEncoderReranker | None:
    if name == "none":
        return None
    return demo_reranker() if name == "demo" else CrossEncoderReranker(name)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url", nargs="?")
    parser.add_argument("--text-search")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--reranker", default="demo", help="a folder, 'demo' (the default) or 'none'")
    asked = parser.parse_args()
    documents = thinned(standard_library_corpus().read().documents, asked.limit)
    items = known_items(documents)
    reranker = chosen(asked.reranker)
    with opened(asked.url) as client:
        client.drop_collection(NAME, missing_ok=True)
        collection = client.create_collection(
            NAME, embedder=WordLlamaEmbedder(), text_search=asked.text_search
        )
        collection.add(documents)
        collection.refresh()
        compared = compare(ways(collection, reranker), items)
        client.drop_collection(NAME)
    print(table(compared, questions=len(items), documents=len(documents)))


if __name__ == "__main__":
    main()
