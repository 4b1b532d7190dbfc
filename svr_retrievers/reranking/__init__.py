"""Reranking: a second, closer look at the best hits, by a model that reads query and text together."""
