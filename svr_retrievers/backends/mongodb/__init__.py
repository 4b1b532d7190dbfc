"""MongoDB Atlas: a collection of documents with vector indexes, searched through `$vectorSearch`."""
