"""An index by its id and the version of its definition: what outlives the process that serves it."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field, replace

from bson import ObjectId

from svr_retrievers.testing.mongodb.documents import Document, section, text
from svr_retrievers.testing.mongodb.views import Namespace


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC).replace(microsecond=0)


@dataclass(frozen=True, slots=True)
class Record:
    ident: ObjectId
    name: str
    kind: str
    home: Namespace
    definition: Document
    version: int = 0
    created: dt.datetime = field(default_factory=_now)

    def updated(self, definition: Document) -> Record:
        return replace(self, definition=definition, version=self.version + 1, created=_now())

    def moved(self, home: Namespace) -> Record:
        """The same index on what its view has become."""
        return replace(self, home=home)

    def document(self) -> Document:
        home = self.home
        return {
            "_id": self.ident, "name": self.name, "type": self.kind, "database": home.database,
            "collection": home.name, "source": home.source, "uuid": home.uuid, "rules": home.rules,
            "definition": self.definition, "version": self.version, "created": self.created,
        }  # fmt: skip

    @classmethod
    def of(cls, kept: Document) -> Record:
        ident, version, created = kept["_id"], kept["version"], kept["created"]
        uuid, rules = kept["uuid"], kept["rules"]
        assert isinstance(ident, ObjectId)
        assert isinstance(version, int)
        assert isinstance(created, dt.datetime)
        assert isinstance(uuid, bytes)
        assert isinstance(rules, bytes)
        names = (text(kept, "database"), text(kept, "collection"), text(kept, "source"))
        home = Namespace(*names, bytes(uuid), bytes(rules))
        definition = section(kept, "definition")
        return cls(ident, text(kept, "name"), text(kept, "type"), home, definition, version, created)
