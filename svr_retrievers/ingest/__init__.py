"""From sources to stored chunks: read, cut, embed, write, and go on where the last run stopped."""

from svr_retrievers.ingest.chunking import Chunk, Chunker, MarkdownChunker, RecursiveChunker, SentenceChunker
from svr_retrievers.ingest.folders import read_folder
from svr_retrievers.ingest.letters import Refusal, replay
from svr_retrievers.ingest.parquet import read_parquet
from svr_retrievers.ingest.pipeline import IngestPipeline
from svr_retrievers.ingest.records import Columns, Read, Reader, Unreadable
from svr_retrievers.ingest.report import IngestReport
from svr_retrievers.ingest.serializer import Serializer
from svr_retrievers.ingest.sources import read_csv, read_json, read_jsonl

__all__ = [
    "Chunk",
    "Chunker",
    "Columns",
    "IngestPipeline",
    "IngestReport",
    "MarkdownChunker",
    "Read",
    "Reader",
    "RecursiveChunker",
    "Refusal",
    "SentenceChunker",
    "Serializer",
    "Unreadable",
    "read_csv",
    "read_folder",
    "read_json",
    "read_jsonl",
    "read_parquet",
    "replay",
]
