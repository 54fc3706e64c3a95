"""What the processes of a training do together, as the trainer sees it; alone there is nothing to do."""

from __future__ import annotations

from typing import Any, Optional, Protocol


class Group(Protocol):
    """The workers of a job. Every worker makes the same calls in the same order, each with the same `what`.

    Raises nothing for a lost peer: a process that finds one leaves at once, since MXNet could not be woken.
    """

    rank: int
    size: int
    launched: bool  # by a launcher, with a scheduler and servers; also with one worker

    @property
    def stop_requested(self) -> bool:
        """Whether some process of the job was asked to stop (SIGTERM)."""

    def gather(self, what: str, data: bytes) -> Optional[list[bytes]]:
        """On rank 0 everybody's `data` by rank, elsewhere None."""

    def share(self, what: str, data: Optional[bytes]) -> bytes:
        """Rank 0's `data`, everywhere; the others give None."""

    def all(self, what: str, value: Any) -> list[Any]:
        """Everybody's `value` (anything JSON holds) by rank, everywhere."""

    def phase(self, name: str, limit: Optional[float] = None) -> None:
        """A sign of life: the work `name` begins and takes at most `limit` s (train.step_timeout when left out)."""

    def ask_to_stop(self) -> None:
        """Pass a SIGTERM on to the whole job; may be called by a signal handler."""


class Alone:
    """The group of a training in one process."""

    rank, size, launched = 0, 1, False

    def __init__(self) -> None:
        self.stop_requested = False

    def gather(self, what: str, data: bytes) -> Optional[list[bytes]]:
        return [data]

    def share(self, what: str, data: Optional[bytes]) -> bytes:
        assert data is not None
        return data

    def all(self, what: str, value: Any) -> list[Any]:
        return [value]

    def phase(self, name: str, limit: Optional[float] = None) -> None:
        return

    def ask_to_stop(self) -> None:
        self.stop_requested = True
