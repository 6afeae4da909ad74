"""What every net of the zoo is: a block that keeps what is already initialised and reads its weights strictly."""

from __future__ import annotations

import warnings

from .._compat import mx
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
