"""The server's `failCommand` for the commands it does not know itself: those about search indexes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from svr_retrievers.testing.mongodb.documents import Document, section, text, whole


@dataclass(slots=True)
class FailPoint:
    """As `configureFailPoint` was told; `left` counts down, `skipped` counts what is let through first."""

    data: Document
    left: int | None
    skipped: int

    @classmethod
    def configured(cls, command: Document) -> FailPoint | None:
        """None where it is switched off."""
        mode = command.get("mode")
        if mode == "off":
            return None
        given: Document = mode if isinstance(mode, dict) else {}
        return cls(section(command, "data"), whole(given.get("times")), whole(given.get("skip")) or 0)

    def _strikes(self, command: str, namespace: str, app: str) -> bool:
        names = self.data.get("failCommands")
        if not isinstance(names, list) or command not in names or self.left == 0:
            return False
        if text(self.data, "appName", app) != app or text(self.data, "namespace", namespace) != namespace:
            return False
        if self.skipped > 0:
            self.skipped -= 1
            return False
        if self.left is not None:
            self.left -= 1
        return True

    async def strike(self, command: str, namespace: str, app: str) -> Document | None:
        """The error to answer; None where the command goes on. Raises ConnectionError where it cuts the connection."""
        if not self._strikes(command, namespace, app):
            return None
        if self.data.get("blockConnection") is True:
            await asyncio.sleep((whole(self.data.get("blockTimeMS")) or 0) / 1000)
        if self.data.get("closeConnection") is True:
            raise ConnectionError("the fail point closes the connection")
        code = whole(self.data.get("errorCode"))
        if code is None:
            return None
        failed: Document = {"ok": 0.0, "errmsg": "Failing command via 'failCommand' failpoint", "code": code}
        labels = self.data.get("errorLabels")
        return failed | ({"errorLabels": labels} if labels else {})
