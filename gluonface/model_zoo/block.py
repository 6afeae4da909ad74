"""What every net of the zoo is: a block that keeps what is already initialised and reads its weights strictly."""

from __future__ import annotations

import warnings

from .._compat import mx
from ..nn.heatmap import HeatmapDecoder
from . import store
from .weights import load_arrays


class ZooBlock(mx.gluon.HybridBlock):
    """A net with facts: ``net.network`` gives raw predictions and is trained, ``net`` is used.

    Both share parameters.
    """

    def initialize(self, init=None, ctx=None, verbose: bool = False, force_reinit: bool = False):
        """Initialise the parameters that have no values yet; a pretrained backbone keeps its own."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*already initialized, ignoring.*")
            super().initialize(init or mx.init.Uniform(), ctx, verbose, force_reinit)

    def load_parameters(
        self,
        filename,
        ctx=None,
        allow_missing: bool = False,
        ignore_extra: bool = False,
        cast_dtype: bool = False,
        dtype_source: str = "current",
    ):
        """Load weights as ``save_parameters`` wrote them; reads the file strictly.

        Raises
        ------
        WeightsError
            The file is damaged, truncated or no weights file, or its weights do not fit; the net is then unchanged.
        """
        load_arrays(
            self,
            store.read_params(filename),
            source=filename,
            ctx=ctx,
            allow_missing=allow_missing,
            ignore_extra=ignore_extra,
        )


class ReadsHeatmaps(ZooBlock):
    """A net with a ``network`` of heatmaps and a ``decoder`` of points, whose constants are no weights."""

    decoder = None

    def _set_decoder(self, map_hw: tuple[int, int], method: str) -> None:
        with self.name_scope():
            self.decoder = HeatmapDecoder(map_hw, method)
        self._place_decoder()
        self._clear_cached_op()

    def _place_decoder(self) -> None:
        """Put the decoder's constants where the network is; before it is anywhere, ``initialize()`` does."""
        placed = [p.list_ctx() for p in self.network.collect_params().values() if p._data is not None]
        constants = self.decoder.collect_params() if self.decoder is not None and placed else {}
        for constant in constants.values():
            if constant._data is None:
                constant.initialize(ctx=placed[0])
            else:
                constant.reset_ctx(placed[0])

    def _collect_params_with_prefix(self, prefix=""):
        # What is saved, loaded and trained: weights do not depend on how points are read off the maps.
        own = super()._collect_params_with_prefix(prefix)
        start = f"{prefix}.decoder." if prefix else "decoder."
        return {name: parameter for name, parameter in own.items() if not name.startswith(start)}

    def load_parameters(self, filename, ctx=None, **options):
        """As `ZooBlock` does; the decoder's constants go where the weights go."""
        super().load_parameters(filename, ctx, **options)
        self._place_decoder()
