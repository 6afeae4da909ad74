"""Multi-task head: how much the tasks of one map share is learned (MOS section 3.1)."""

from __future__ import annotations

import numpy as np

from .._compat import mx

nn = mx.gluon.nn

#: Share of a task's own map in what it sees at first; the others have equal shares of the rest (Misra et al. 2016,
#: section 4, find that a start near to, but not at, separate tasks learns best).
OWN_SHARE = 0.9


class _Start(mx.init.Initializer):
    """Starts a parameter as a given array, whatever the net's own initialiser."""

    def __init__(self, values: np.ndarray):
        super().__init__()
        self.values = values

    def _init_weight(self, _, arr):
        arr[:] = mx.nd.array(self.values, ctx=arr.context, dtype=arr.dtype)


class CrossStitch(nn.HybridBlock):
    """Linear combinations, channel by channel, of the maps of n tasks: for each task n x C learned weights.

    Misra et al. 2016 weigh whole maps; here each channel has a weight of its own (MOS section 3.1).

    Parameters
    ----------
    tasks, channels : int
        n, C.
    """

    def __init__(self, tasks: int, channels: int, **kwargs):
        super().__init__(**kwargs)
        self.tasks = tasks
        with self.name_scope():
            # Depthwise convolutions 1x1 are products with one number a channel, and faster than broadcast_mul here.
            self.mixes = nn.HybridSequential()
            for task in range(tasks):
                shares = np.full(tasks, (1 - OWN_SHARE) / max(tasks - 1, 1))
                shares[task] = OWN_SHARE if tasks > 1 else 1.0
                start = np.repeat(shares, channels)[:, None, None, None]
                self.mixes.add(
                    nn.Conv2D(
                        tasks * channels,
                        1,
                        groups=tasks * channels,
                        in_channels=tasks * channels,
                        use_bias=False,
                        weight_initializer=_Start(start),
                    )
                )

    def hybrid_forward(self, F, x):
        """Maps (B, n * C, h, w), task after task, to a list of n maps (B, C, h, w): what each task sees."""
        if self.tasks == 1:
            return [self.mixes[0](x)]
        return [F.add_n(*F.split(mix(x), num_outputs=self.tasks, axis=1)) for mix in self.mixes]


class MultiTaskHead(nn.HybridBlock):
    """A branch for each task on one level, joined by a cross-stitch unit; the tasks' predictors follow.

    The branches start as the identity and the weights of a task add up to 1, so the head starts as the hard-shared one:
    the weights of a detector with that head can start it.

    Parameters
    ----------
    tasks, channels : int
    """

    def __init__(self, tasks: int, channels: int, **kwargs):
        super().__init__(**kwargs)
        identity = np.tile(np.eye(channels), (tasks, 1))[:, :, None, None]
        with self.name_scope():
            self.branches = nn.Conv2D(
                tasks * channels, 1, in_channels=channels, activation="relu", weight_initializer=_Start(identity)
            )
            self.stitch = CrossStitch(tasks, channels)

    def hybrid_forward(self, F, x):
        """A map (B, C, h, w), not negative, to a list of one of the same shape for each task."""
        return self.stitch(self.branches(x))
