"""The one error of the stand-in: it becomes a MongoDB error reply, never the end of a connection."""

from __future__ import annotations

from svr_retrievers.testing.mongodb.documents import Document

_NAMES = {
    2: "BadValue", 8: "UnknownError", 9: "FailedToParse", 13: "Unauthorized", 14: "TypeMismatch",
    26: "NamespaceNotFound", 27: "IndexNotFound", 50: "MaxTimeMSExpired", 59: "CommandNotFound",
    68: "IndexAlreadyExists", 72: "InvalidOptions", 125: "CommandFailed", 166: "CommandNotSupportedOnView",
    197: "InvalidIndexSpecificationOption", 263: "OperationNotSupportedInTransaction",
}  # fmt: skip


class Refused(Exception):
    """What the deployment would answer instead of doing it."""

    def __init__(self, message: str, code: int = 8) -> None:
        super().__init__(message)
        self.code = code

    def reply(self) -> Document:
        name = _NAMES.get(self.code, f"Location{self.code}")
        return {"ok": 0.0, "errmsg": str(self), "code": self.code, "codeName": name}


class QueryFailed(Refused):
    """An error of the search process while a query runs; the server names the command and the collection with it."""

    def on(self, namespace: str, version: tuple[int, int]) -> Refused:
        if version < (8, 0):
            return Refused(f"PlanExecutor error during aggregation :: caused by :: {self}", self.code)
        return Refused(
            f"Executor error during aggregate command on namespace: {namespace} :: caused by :: {self}",
            self.code,
        )


def in_query(message: str) -> QueryFailed:
    return QueryFailed(message)
