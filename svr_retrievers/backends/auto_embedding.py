"""The declaration that the database itself embeds the texts of a collection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast, get_args

from svr_retrievers.errors import InputError
from svr_retrievers.model import JsonValue

EmbeddedQuantization: TypeAlias = Literal["float", "scalar", "binary", "binaryNoRescore"]
_DIMENSIONS = (256, 512, 1024, 2048)


@dataclass(frozen=True, slots=True)
class AtlasEmbedding:
    """Says that MongoDB Atlas embeds texts and queries with a model of Voyage AI, such as `"voyage-4"`.

    Given as a collection's `embedder`; it embeds nothing itself, and needs no key in this process. `dimensions` is
    256, 512, 1024 or 2048. `quantization` says what the index keeps of a number: `"float"`, `"scalar"` (8 bits),
    `"binary"` (one bit, put in order by the full vectors) or `"binaryNoRescore"`.
    """

    model: str
    dimensions: int = 1024
    quantization: EmbeddedQuantization = "scalar"

    def __post_init__(self) -> None:
        if not isinstance(self.model, str) or not self.model:
            raise InputError("model must be the name of an embedding model.", hint='e.g. "voyage-4"')
        if isinstance(self.dimensions, bool) or self.dimensions not in _DIMENSIONS:
            raise InputError(f"dimensions must be 256, 512, 1024 or 2048, not {self.dimensions!r}.")
        if self.quantization not in get_args(EmbeddedQuantization):
            raise InputError(
                "quantization must be 'float', 'scalar', 'binary' or 'binaryNoRescore', "
                f"not {self.quantization!r}."
            )

    def to_json(self) -> dict[str, JsonValue]:
        return {"model": self.model, "dimensions": self.dimensions, "quantization": self.quantization}

    @staticmethod
    def of_json(body: Mapping[str, JsonValue]) -> AtlasEmbedding:
        return AtlasEmbedding(
            str(body["model"]),
            cast("int", body["dimensions"]),
            cast("EmbeddedQuantization", body["quantization"]),
        )
