"""Where every refusal of a run goes: into its figures, to the dead letters, and up where the first one ends it."""

from __future__ import annotations

from svr_retrievers.ingest.letters import DeadLetters, Refusal
from svr_retrievers.ingest.options import Options
from svr_retrievers.ingest.report import Tally
from svr_retrievers.ingest.work import Work


class Refused(Exception):
    """The first refusal of a run that goes no further than that."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(str(refusal))
        self.refusal = refusal


class Refusing:
    """May be called from any thread."""

    def __init__(self, options: Options, tally: Tally) -> None:
        self._tally = tally
        self._fails = options.on_error == "fail"
        self._letters = DeadLetters(options.dead_letters) if options.dead_letters is not None else None

    def refuse(self, refusal: Refusal) -> None:
        """Raises Refused under on_error="fail"."""
        if self._letters is not None:
            self._letters.write(refusal)
        self._tally.refuse(refusal)
        if self._fails:
            raise Refused(refusal)

    def refuse_work(self, work: Work, code: str, message: str) -> None:
        """A document, once, however many of its rows are at fault."""
        if not work.refused:
            work.refused = True
            self.refuse(Refusal(work.id, work.place, code, message, work.document))
