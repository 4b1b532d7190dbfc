"""Which layout the documents of a collection have: ours, or the one that others gave them. PURE."""

from __future__ import annotations

from svr_retrievers.backends.mongodb.foreign import ForeignLayout
from svr_retrievers.backends.mongodb.layout import Layout, Mode
from svr_retrievers.backends.protocol import CollectionConfig
from svr_retrievers.names import column_for


def layout_of(config: CollectionConfig, mode: Mode) -> Layout:
    keys = {name: column_for(name, position) for position, name in enumerate(config.fields)}
    if config.source is not None:
        return ForeignLayout(mode, config.index.vectors, config.dimensions, keys, source=config.source)
    return Layout(mode, config.index.vectors, config.dimensions, keys, config.embedding is not None)
