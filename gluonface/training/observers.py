"""`Observer`: what looks on while a net is trained, and may change what comes next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..engine import Engine

__all__ = ["Observer"]


class Observer:
    """Looks on while a net is trained; each method may be left as it is.

    With several machines every worker has an observer of its own. All see the same numbers, so all of them decide alike
    as long as they go by these alone.
    """

    def after_batch(self, epoch: int, batch: int, means: dict[str, float]) -> None:
        """Called one batch late, while the next is being computed.

        Parameters
        ----------
        epoch, batch : int
        means : dict of str to float
            The parts of the loss and what else is watched, means over the samples of the batch, of all workers.
        """

    def after_epoch(self, engine: Engine) -> None:
        """Called before an epoch is validated and saved; ``engine.net`` holds the averaged weights meanwhile."""

    def report(self) -> dict[str, float]:
        """Numbers for the log and the curves."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs; anything JSON can hold."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
