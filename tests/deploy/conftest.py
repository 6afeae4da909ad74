"""Toy artefacts for the tests of what is compiled."""

import importlib.util
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def toy():
    """The module toy.py beside this file."""
    spec = importlib.util.spec_from_file_location("toy", Path(__file__).with_name("toy.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules["toy"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def toys(toy, tmp_path_factory) -> Path:
    """A folder with the artefacts ``detector`` (two sizes, batches of one and three), ``landmarks`` and
    ``detector.zip``; the test is skipped without TVM.
    """
    pytest.importorskip("tvm", reason="compiling takes TVM: pip install gluonface[deploy]")
    folder = tmp_path_factory.mktemp("toys")
    toy.write(folder / "detector", "detection", [(1, (96, 128)), (3, (96, 128)), (1, (480, 640))])
    toy.write(folder / "landmarks", "landmarks", [(1, (64, 64)), (4, (64, 64))])
    libraries = toy.artifact.installed_runtime()
    toy.write(folder / "detector.zip", "detection", [(1, (96, 128))], runtime_libs=libraries, as_zip=True)
    return folder


@pytest.fixture
def photo(rng):
    """A function that makes a photo (h, w, 3) with two bright rectangles, in which the toys find two faces."""
    import numpy as np

    def make(height: int = 300, width: int = 420) -> np.ndarray:
        image = rng.integers(0, 100, (height, width, 3)).astype(np.uint8)
        for channel, share in ((1, 3), (0, 6)):
            h, w = height // share, width // share
            y, x = rng.integers(height - h), rng.integers(width - w)
            image[y : y + h, x : x + w, channel] = 230
        return image

    return make


@pytest.fixture(scope="session")
def lively():
    """A function that builds a detector of the zoo, by name, size of the input and options, with random weights whose
    predictions differ from anchor to anchor, as those of a trained one do.
    """
    import numpy as np

    import gluonface
    from gluonface._compat import mx

    # Of what heads predict, in the order of a network's outputs.
    spreads = {"cls_head": 3, "box_head": 0.3, "landmark_head": 0.5, "scale_head": 2, "response_head": 3, "tag_head": 2}

    def build(name: str, size_hw: tuple[int, int], **options):
        net, rng = gluonface.get_model(name, **options), np.random.default_rng(0)
        net.initialize(mx.init.Zero())
        image = mx.nd.array(rng.normal(0, 1, (1, 3, *size_hw)))
        net.network(image)
        for key, parameter in net.collect_params().items():
            if key.endswith(("_frame", "_weights")):  # a box mapping: numbers of which some belong together
                continue
            value = rng.normal(0, 0.1, parameter.shape)
            if key.endswith("weight"):
                fan_in = max(1, np.prod(parameter.shape[1:]))
                # Offsets of deformable convolutions are of a cell or so.
                value = rng.normal(0, np.sqrt((0.2 if "offset" in key else 2) / fan_in), parameter.shape)
            elif key.endswith(("gamma", "running_var")):
                value = 1 + value
            parameter.set_data(mx.nd.array(value))
        parts = [(getattr(net.network, name, None), spread) for name, spread in spreads.items()]
        for (part, spread), found in zip(((part, spread) for part, spread in parts if part), net.network(image)):
            for conv in getattr(part, "convs", [part]):
                conv.weight.set_data(conv.weight.data() * (spread / found.asnumpy().std()))
        if hasattr(net.network, "scale_head"):
            # The best of 60 bins is then as often a face as not.
            net.network.scale_head.bias.set_data(net.network.scale_head.bias.data() - 5)
        return net

    return build


@pytest.fixture
def small_kpnet(lively, monkeypatch):
    """A function that builds a KPNet for a size of the input and with options, lively, on a backbone of one layer that
    compiles in a second.
    """
    from gluonface._compat import mx
    from gluonface.model_zoo import kpnet

    class Backbone(mx.gluon.nn.HybridSequential):
        channels = 8

        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            with self.name_scope():
                self.add(mx.gluon.nn.Conv2D(8, 7, 2, padding=3, in_channels=3, activation="relu"))

    monkeypatch.setitem(kpnet.VARIANTS, "drnet", kpnet.Variant(Backbone, params=0, gf=0.0))
    return lambda size_hw, **options: lively("kpnet_drnet_widerface", size_hw, **options)


@pytest.fixture(scope="session")
def small_maskface(lively):
    """A function that builds a MaskFace with options, lively, on a backbone of a convolution for each of C2 to C5 that
    compiles in a second: boxes and heatmaps differ from place to place.
    """
    from gluonface._compat import mx
    from gluonface.model_zoo import maskface

    class Backbone(mx.gluon.nn.HybridBlock):
        channels = (8, 8, 8, 8)

        def __init__(self):
            super().__init__()
            with self.name_scope():
                self.stages = mx.gluon.nn.HybridSequential()
                for strides, given in ((4, 3), (2, 8), (2, 8), (2, 8)):
                    padding = 2 - (strides == 4)
                    layer = mx.gluon.nn.Conv2D(8, 5, strides, padding, in_channels=given, activation="relu")
                    self.stages.add(layer)

        def hybrid_forward(self, F, x):
            maps = [x]
            for stage in self.stages:
                maps.append(stage(maps[-1]))
            return tuple(maps[1:])

    def build(roi_scale=1.25, **options):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(maskface, "Backbone", lambda *args, **options: Backbone())
            # Random weights, so a model that has none: what trained ones take as input would not suit them.
            name, size = "maskface_mobilenet0.25_fc26", (64, 96)
            net = lively(name, size, channels=16, k0=5, roi_scale=roi_scale, num_points=19, frozen=False, **options)
        head = net.network.keypoint_head
        if head is not None:
            head.deconv.weight.set_data(head.deconv.weight.data() * 3)
        # Scores that differ, not all next to 1.
        for weight in net.network.cls_head.collect_params(".*weight").values():
            weight.set_data(weight.data() * 0.3)
        net.set_nms(0.4, 1000, 20, 0.02)
        return net

    return build
