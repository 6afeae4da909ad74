"""ShuffleNet V2 and deformable blocks where MXNet is not: in Relax and in ONNX, against MXNet."""

import tempfile
from pathlib import Path

import numpy as np
import pytest

from gluonface._compat import mx
from gluonface.deploy.symbol import trace
from gluonface.model_zoo.backbone import Backbone
from gluonface.model_zoo.shufflenet import ShuffleNetV2
from gluonface.nn.context import SSHContext
from gluonface.nn.deform import deformable_block
from gluonface.nn.pyramid import FeaturePyramid

nn = mx.gluon.nn


class Deformable(nn.HybridBlock):
    """Backbone, pyramid and context modules as a detector with deformable convolutions has them."""

    def __init__(self, name, channels):
        super().__init__()
        with self.name_scope():
            self.backbone = Backbone(name)
            self.pyramid = FeaturePyramid(channels, self.backbone.channels, deformable=True)
            self.context = SSHContext(channels, deformable=True)

    def hybrid_forward(self, F, x):
        maps = self.pyramid(*self.backbone(x))
        return (self.context(maps[0]), *maps[1:])


#: Name -> (a function that builds the net, its input's shape); odd sides, and a batch of two.
NETS = {
    "classifier": (lambda: ShuffleNetV2(0.5, classes=10), (2, 3, 64, 32)),
    "features": (lambda: ShuffleNetV2(1.0).features[:-2], (1, 3, 45, 70)),
    "backbone": (lambda: Backbone("shufflenetv2_0.5"), (1, 3, 61, 96)),
    "deformable block": (lambda: deformable_block(6, 3, in_channels=5), (2, 5, 9, 7)),
    "deformable detector": (lambda: Deformable("shufflenetv2_0.5", 16), (1, 3, 61, 64)),
}
EACH = pytest.mark.parametrize("name", NETS)


def lively(name):
    """A net whose values keep their size from layer to layer and whose offsets are of a cell or so; its input."""
    build, shape = NETS[name]
    net, rng = build(), np.random.default_rng(3)
    net.initialize(mx.init.Zero())
    net(mx.nd.zeros(shape))
    for parameter_name, parameter in net.collect_params().items():
        fan_in = max(1, int(np.prod(parameter.shape[1:])))
        if parameter_name.endswith("weight"):
            value = rng.normal(0, np.sqrt((0.2 if "offset" in parameter_name else 1.4) / fan_in), parameter.shape)
        elif parameter_name.endswith(("gamma", "running_var")):
            value = rng.uniform(0.7, 1.3, parameter.shape)
        else:
            value = rng.normal(0, 0.1, parameter.shape)
        parameter.set_data(mx.nd.array(value))
    return net, rng.normal(size=shape).astype(np.float32)


def outputs(net, image):
    found = net(mx.nd.array(image))
    return [m.asnumpy() for m in (found if isinstance(found, (list, tuple)) else [found])]


def assert_close(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape and np.isfinite(theirs).all() and theirs.std() > 1e-2
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4 * np.abs(theirs).max())


@EACH
@pytest.mark.parametrize("channels_last", [True, False], ids=["channels last", "channels first"])
def test_in_relax_it_gives_what_mxnet_gives(name, channels_last):
    pytest.importorskip("tvm", reason="needs the deploy extra")
    from gluonface.deploy.relax import from_mxnet, relax, tvm

    net, image = lively(name)
    symbol, params = trace(net)
    module = from_mxnet(symbol, params, {"data": image.shape}, channels_last=channels_last)
    # Without optimisation code is made faster, and it is made faster into a file than into memory.
    executable = relax.build(module, tvm.target.Target({"kind": "llvm", "opt-level": 0}))
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "module.so")
        executable.export_library(file)
        machine = relax.VirtualMachine(tvm.runtime.load_module(file), tvm.cpu())
    found = machine["main"](tvm.runtime.tensor(image))
    found = [found] if hasattr(found, "numpy") else list(found)
    assert_close([tensor.numpy() for tensor in found], outputs(net, image))


@EACH
def test_in_onnx_it_gives_what_mxnet_gives(name):
    pytest.importorskip("onnx", reason="needs onnx: pip install gluonface[deploy]")
    runtime = pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install gluonface[bench]")
    from gluonface.deploy.onnx_export import to_onnx

    net, image = lively(name)
    symbol, params = trace(net)
    model = to_onnx(symbol, params, {"data": image.shape})
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    assert_close(session.run(None, {"data": image}), outputs(net, image))
