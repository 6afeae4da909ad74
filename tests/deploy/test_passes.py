"""A net takes the canvas as it is, and gives what it gave for the normalised one."""

import numpy as np
import pytest

tvm = pytest.importorskip("tvm", reason="needs gluonface[deploy]")

from gluonface._compat import mx  # noqa: E402
from gluonface.analysis import normalise  # noqa: E402
from gluonface.deploy.passes import NORMALISE, take_canvas  # noqa: E402
from gluonface.deploy.relax import from_graph, relax  # noqa: E402
from gluonface.deploy.symbol import read_symbol, trace  # noqa: E402
from gluonface.errors import DeployError  # noqa: E402
from gluonface.facts import ModelFacts  # noqa: E402

nn = mx.gluon.nn
FACTS = ModelFacts("made up", "none", "none", "none", params=0, gf=0.0)
HW = (10, 12)


def convolutional():
    net = nn.HybridSequential()
    net.add(nn.Conv2D(6, 3, padding=1, strides=2, in_channels=3), nn.Activation("relu"))
    return net


def pooled():
    net = nn.HybridSequential()
    net.add(nn.AvgPool2D(2), nn.Conv2D(6, 1, in_channels=3))
    return net


class Twice(nn.HybridBlock):
    """Two convolutions of the image and the image itself."""

    def __init__(self):
        super().__init__()
        self.one, self.other = nn.Conv2D(3, 3, padding=1, in_channels=3), nn.Conv2D(3, 1, in_channels=3)

    def hybrid_forward(self, F, x):
        return self.one(x) + self.other(x) + x


@pytest.mark.parametrize(("make", "folded"), [(convolutional, True), (pooled, False), (Twice, False)])
def test_the_canvas_is_normalised_inside(make, folded):
    net = make()
    net.initialize(mx.init.Normal(0.5))
    canvases = np.random.default_rng(0).integers(0, 256, (2, *HW, 3), np.uint8)
    x = np.stack([normalise(canvas, FACTS, np.empty((3, *HW), np.float32)) for canvas in canvases])
    expected = net(mx.nd.array(x)).asnumpy()
    graph = read_symbol(*trace(net), {"data": (2, 3, *HW)})
    take_canvas(graph, FACTS)
    (node,) = [node for node in graph if node.op == NORMALISE]
    assert (node.in_value(2) == 1).all() == folded
    assert [(i.name, i.shape, i.dtypes) for i in graph.inputs] == [("canvas", (2, *HW, 3), ["uint8"])]
    executable = relax.build(from_graph(graph), target=tvm.target.Target({"kind": "llvm"}))
    found = relax.VirtualMachine(executable, tvm.cpu())["main"](tvm.runtime.tensor(canvases)).numpy()
    assert np.abs(found - expected).max() < 1e-4


def test_a_net_that_takes_no_picture_is_refused():
    net = nn.Dense(3, in_units=4)
    net.initialize()
    graph = read_symbol(*trace(net), {"data": (1, 4)})
    with pytest.raises(DeployError, match=r"expected a net of one input \(B, 3, H, W\), got \[\(1, 4\)\]"):
        take_canvas(graph, FACTS)
