"""What a search stage finds: which documents, in which order, and what is known of each besides."""

from __future__ import annotations

from dataclasses import dataclass

from svr_retrievers.testing.mongodb.documents import Document


@dataclass(frozen=True, slots=True)
class Found:
    """One hit: the document's `_id`, its score, what the index stored of it, and how the score came about."""

    ident: object
    score: float
    stored: Document | None = None
    details: Document | None = None
