"""Symbols as graphs: what is read, what is computed while reading, what is rewritten, and what is refused."""

import numpy as np
import pytest

from gluonface._compat import mx
from gluonface.deploy.symbol import Graph, Node, batch_norm_terms, read_symbol, trace
from gluonface.errors import DeployError, InputError

S = mx.sym


def outputs_of(symbol, params, inputs):
    """MXNet's outputs of a symbol."""
    values = {name: mx.nd.array(array) for name, array in {**params, **inputs}.items()}
    executor = symbol.bind(
        mx.cpu(),
        {name: values[name] for name in symbol.list_arguments()},
        aux_states={name: values[name] for name in symbol.list_auxiliary_states()},
        grad_req="null",
    )
    return [output.asnumpy() for output in executor.forward(is_train=False)]


def evaluated(graph, inputs):
    """MXNet's outputs of a graph, node by node: what a converter that makes no mistake would give."""
    known = {}
    for node in graph:
        if node.op == "null":
            known[node, 0] = mx.nd.array(inputs[node.name] if node.is_input else node.value)
            continue
        function = getattr(mx.nd, node.op, None) or getattr(mx.nd._internal, node.op)
        results = function(*(known[ref] for ref in node.inputs), **node.attrs)
        for k, result in enumerate(results if isinstance(results, list) else [results]):
            known[node, k] = result
    return [known[ref].asnumpy() for ref in graph.outputs]


# ---- attributes ------------------------------------------------------------------------------------------------------


def node(**attrs):
    return Node("op", "node", attrs)


@pytest.mark.parametrize(
    ("text", "value"),
    [("True", True), ("true", True), ("1", True), ("False", False), ("false", False), ("0", False), (None, "default")],
)
def test_a_flag_is_read_as_mxnet_writes_it(text, value):
    read = node(**({} if text is None else {"a": text}))
    assert read.flag("a", True) is (True if value == "default" else value)
    assert read.flag("a") is (False if value == "default" else value)


def test_numbers_are_read_and_missing_ones_are_the_default():
    read = node(a="3", b="0.5", c="None", d="-1")
    assert read.integer("a") == 3 and read.number("b") == 0.5 and read.integer("d") == -1
    assert read.number("c", 7.0) == 7.0 and read.integer("c") is None and read.integer("missing", 4) == 4
    assert isinstance(read.number("a"), float)


def test_tuples_are_read_and_one_number_is_a_tuple():
    read = node(a="(2, 3)", b="[4]", c="5", d="()", e="None", f="(1L, 2L)")
    assert read.integers("a") == (2, 3) and read.integers("b") == (4,) and read.integers("c") == (5,)
    assert read.integers("d") is None and read.integers("d", (1, 1)) == (1, 1) and read.integers("e", [0]) == (0,)
    assert node(a="(None, 2)").literal("a") == (None, 2)


def test_text_is_the_default_where_it_is_none():
    assert node(a="None").text("a", "NCHW") == "NCHW" and node(a="NHWC").text("a") == "NHWC"
    assert node().text("a") is None and node(a="max").literal("a") == "max"


# ---- reading ---------------------------------------------------------------------------------------------------------


def test_every_value_has_its_shape_and_type():
    x = S.var("data")
    parts = S.split(S.Cast(x, dtype="int32"), num_outputs=2, axis=1, name="parts")
    graph = read_symbol(S.Group([parts[1], x + 1]), {}, {"data": (2, 6, 5)})
    (source, k), _ = graph.outputs
    assert (source.op, source.name, k) == ("SliceChannel", "parts", 1)
    assert source.shapes == [(2, 3, 5)] * 2 and source.dtypes == ["int32"] * 2
    assert source.in_shape() == (2, 6, 5) and source.in_dtype() == "int32"
    assert graph.inputs[0].shape == (2, 6, 5) and graph.inputs[0].is_input


def test_nodes_come_after_what_they_need_and_only_once():
    x = S.var("data")
    y = S.relu(x)
    graph = read_symbol(S.Group([y + S.sqrt(y), y * 2]), {}, {"data": (2,)})
    order = list(graph)
    assert len(order) == len(set(order))
    for number, each in enumerate(order):
        assert all(order.index(source) < number for source, _ in each.inputs)
    assert graph.operators() == {"relu", "sqrt", "elemwise_add", "_mul_scalar"}


def test_a_long_chain_is_no_trouble():
    x = S.var("data")
    for _ in range(1500):
        x = x + 1
    assert len(list(read_symbol(x, {}, {"data": (1,)}))) == 1501


def test_names_of_parameters_may_say_what_they_are():
    x = S.BatchNorm(S.var("data"), name="n", fix_gamma=False)
    arrays = {"arg:n_gamma": np.ones(3), "arg:n_beta": np.zeros(3), "aux:n_moving_mean": mx.nd.zeros(3)}
    graph = read_symbol(x, {**arrays, "aux:n_moving_var": np.ones(3, np.float32)}, {"data": (2, 3)})
    assert [each.name for each in graph if each.value is not None] == [
        "n_gamma", "n_beta", "n_moving_mean", "n_moving_var",
    ]  # fmt: skip
    assert {each.value.dtype for each in graph if each.value is not None} == {np.dtype(np.float32)}


def test_missing_parameters_and_unknown_inputs_are_named_together():
    symbol = S.FullyConnected(S.var("data"), num_hidden=2, name="dense")
    with pytest.raises(InputError, match=r"not in the symbol: \['image'\].*\['data', 'dense_weight'\]"):
        read_symbol(symbol, {"dense_bias": np.zeros(2)}, {"image": (1, 3)})


def test_shapes_that_do_not_fit_are_refused():
    symbol = S.FullyConnected(S.var("data"), num_hidden=2, name="dense")
    params = {"dense_bias": np.zeros(2, np.float32), "dense_weight": np.zeros((2, 4), np.float32)}
    with pytest.raises(DeployError, match=r"shapes \{'data': \(1, 3\)\} do not go through the symbol"):
        read_symbol(symbol, params, {"data": (1, 3)})


@pytest.mark.filterwarnings("error")
def test_what_has_no_static_shape_is_named():
    symbol = S.relu(S.contrib.boolean_mask(S.var("data"), S.var("mask"), name="chosen"))
    with pytest.raises(DeployError, match=r"shapes of chosen \(_contrib_boolean_mask\) do not follow"):
        read_symbol(symbol, {}, {"data": (4, 3), "mask": (4,)})


def test_real_numbers_of_any_kind_become_float32():
    for kind in (np.float16, np.float64):
        graph = read_symbol(S.var("data") * S.var("w"), {"w": np.ones(3, kind)}, {"data": (3,)})
        assert graph.outputs[0][0].in_value(1).dtype == np.float32
    symbol = S.gather_nd(S.var("data"), S.var("w"))
    graph = read_symbol(symbol, {"w": np.ones((1, 2), np.int64)}, {"data": (3,)})
    assert graph.outputs[0][0].in_dtype(1) == "int64"


def test_parameters_that_are_not_used_are_no_trouble():
    graph = read_symbol(S.relu(S.var("data")), {"other": np.zeros(3)}, {"data": (1,)})
    assert [each.op for each in graph] == ["null", "relu"]


def test_a_block_is_traced_with_the_parameters_that_it_uses():
    net = mx.gluon.nn.HybridSequential()
    net.add(mx.gluon.nn.Conv2D(2, 1, in_channels=3), mx.gluon.nn.BatchNorm(in_channels=2))
    net.initialize()
    symbol, params = trace(net)
    assert set(params) == {*symbol.list_arguments(), *symbol.list_auxiliary_states()} - {"data"}
    read_symbol(symbol, params, {"data": (1, 3, 4, 4)})


def test_a_block_of_several_inputs_is_traced_in_order():
    class Two(mx.gluon.HybridBlock):
        def hybrid_forward(self, F, x, y):
            return x - y, y

    symbol, params = trace(Two(), "a", "b")
    graph = read_symbol(symbol, params, {"b": (2,), "a": (2,)})
    assert [each.name for each in graph.inputs] == ["b", "a"]
    assert [source.name for source, _ in graph.outputs][1] == "b"


# ---- constants -------------------------------------------------------------------------------------------------------


def test_what_needs_no_input_is_computed_while_reading():
    x = S.var("data")
    anchors = S.reshape(S.arange(6) * 2, (2, 3))
    graph = read_symbol(S.broadcast_add(x, anchors + S.var("shift")), {"shift": np.ones((2, 3))}, {"data": (2, 3)})
    assert graph.operators() == {"broadcast_add"}
    (node, _) = graph.outputs[0]
    np.testing.assert_array_equal(node.in_value(1), np.arange(6).reshape(2, 3) * 2 + 1)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda x: S.zeros_like(x), np.zeros((2, 3, 4, 5))),
        (lambda x: S.ones_like(S.relu(x)), np.ones((2, 3, 4, 5))),
        (lambda x: S.shape_array(x), [2, 3, 4, 5]),
        (lambda x: S.size_array(x), [120]),
        (lambda x: S.contrib.arange_like(x, axis=3), np.arange(5)),
    ],
)
def test_what_follows_from_the_shape_of_an_input_is_computed_while_reading(make, expected):
    graph = read_symbol(S.Group([S.Cast(make(S.var("data")), dtype="float32")]), {}, {"data": (2, 3, 4, 5)})
    ((node, _),) = graph.outputs
    assert graph.operators() == set()
    np.testing.assert_array_equal(node.value, expected)


def test_the_priors_of_ssd_follow_from_the_shape():
    symbol = S.contrib.MultiBoxPrior(S.var("data"), sizes=(0.5, 0.2), ratios=(1, 2))
    ((node, _),) = read_symbol(symbol, {}, {"data": (1, 3, 2, 2)}).outputs
    expected = mx.nd.contrib.MultiBoxPrior(mx.nd.zeros((1, 3, 2, 2)), sizes=(0.5, 0.2), ratios=(1, 2)).asnumpy()
    np.testing.assert_array_equal(node.value, expected)


def test_random_numbers_are_not_constants():
    symbol = S.var("data") + S.random.uniform(shape=(2, 3))
    assert "_random_uniform" in read_symbol(symbol, {}, {"data": (2, 3)}).operators()


# ---- rewriting -------------------------------------------------------------------------------------------------------


def test_all_operators_without_a_converter_are_named_with_an_example():
    x = S.var("data")
    symbol = S.relu(S.sqrt(x, name="root_a")) + S.sqrt(x, name="root_b") * S.erf(x, name="bell")
    graph = read_symbol(symbol, {}, {"data": (1,)})
    with pytest.raises(DeployError, match=r"as Somewhere yet: erf \(1 times, such as bell\), sqrt \(2 times, .*root_"):
        graph.require({"relu", "elemwise_add", "elemwise_mul"}, "Somewhere")
    graph.require({"relu", "elemwise_add", "elemwise_mul", "sqrt", "erf"}, "Somewhere")


def test_replaced_values_are_replaced_everywhere_and_chains_are_followed():
    x = S.var("data")
    graph = read_symbol(S.relu(S.sqrt(S.abs(x))) + S.exp(S.abs(x)), {}, {"data": (1,)})
    by_op = {each.op: each for each in graph}
    root, data = (by_op["sqrt"], 0), (graph.inputs[0], 0)
    graph.replace({(by_op["relu"], 0): root, root: data, (by_op["exp"], 0): data})
    assert graph.operators() == {"elemwise_add"}
    assert graph.outputs[0][0].inputs == [data, data]


def test_uses_count_outputs_as_well():
    x = S.var("data")
    y = S.relu(x)
    graph = read_symbol(S.Group([y, y + y]), {}, {"data": (1,)})
    assert graph.uses()[graph.outputs[0]] == 3


def batch_norm_of(rng, channels, prefix="n"):
    return {
        f"{prefix}_gamma": rng.uniform(0.5, 2, channels), f"{prefix}_beta": rng.normal(size=channels),
        f"{prefix}_moving_mean": rng.normal(size=channels), f"{prefix}_moving_var": rng.uniform(0.5, 2, channels),
    }  # fmt: skip


#: Operator, attributes, shape of the weights.
LAYERS = {
    "convolution": (S.Convolution, {"kernel": (3, 3), "num_filter": 6}, (6, 4, 3, 3)),
    "convolution in groups": (S.Convolution, {"kernel": (3, 3), "num_filter": 6, "num_group": 2}, (6, 2, 3, 3)),
    "deconvolution": (S.Deconvolution, {"kernel": (2, 2), "num_filter": 6}, (4, 6, 2, 2)),
    "deconvolution in groups": (S.Deconvolution, {"kernel": (2, 2), "num_filter": 6, "num_group": 2}, (4, 3, 2, 2)),
    "dense": (S.FullyConnected, {"num_hidden": 6}, (6, 4 * 5 * 7)),
    "dense along the last axis": (S.FullyConnected, {"num_hidden": 6, "flatten": False}, (6, 7)),
}


@pytest.mark.parametrize("fix_gamma", [True, False])
@pytest.mark.parametrize("no_bias", [True, False])
@pytest.mark.parametrize("layer", LAYERS)
def test_a_batch_norm_folds_into_the_layer_before_it(rng, layer, no_bias, fix_gamma):
    function, attrs, shape = LAYERS[layer]
    x = function(S.var("data"), no_bias=no_bias, name="w", **attrs)
    params = {"w_weight": rng.normal(size=shape), **batch_norm_of(rng, 6)}
    if not no_bias:
        params["w_bias"] = rng.normal(size=6)
    axis = -1 if layer.endswith("last axis") else 1
    symbol = S.BatchNorm(x, fix_gamma=fix_gamma, eps=1e-3, axis=axis, name="n")
    params = {name: array.astype(np.float32) for name, array in params.items()}
    inputs = {"data": rng.normal(size=(2, 4, 5, 7)).astype(np.float32)}
    graph = read_symbol(symbol, params, {"data": (2, 4, 5, 7)})
    before = {name: array.copy() for name, array in params.items()}
    graph.fold_batch_norms()
    assert "BatchNorm" not in graph.operators() and len(graph.operators()) == 1
    np.testing.assert_allclose(evaluated(graph, inputs)[0], outputs_of(symbol, params, inputs)[0], rtol=1e-4, atol=1e-4)
    for name, array in params.items():
        np.testing.assert_array_equal(array, before[name], err_msg="the caller's arrays are changed")


def test_a_synchronised_batch_norm_folds_as_well(rng):
    x = S.Convolution(S.var("data"), kernel=(1, 1), num_filter=3, name="w")
    symbol = S.contrib.SyncBatchNorm(x, fix_gamma=False, key="k", name="n")
    params = {"w_weight": rng.normal(size=(3, 2, 1, 1)), "w_bias": np.zeros(3), **batch_norm_of(rng, 3)}
    graph = read_symbol(symbol, {k: v.astype(np.float32) for k, v in params.items()}, {"data": (1, 2, 4, 4)})
    graph.fold_batch_norms()
    assert graph.operators() == {"Convolution"}


def test_a_convolution_that_something_else_uses_keeps_its_weights(rng):
    x = S.Convolution(S.var("data"), kernel=(1, 1), num_filter=3, name="w")
    symbol = S.BatchNorm(x, fix_gamma=False, name="n") + S.relu(x)
    params = {"w_weight": rng.normal(size=(3, 2, 1, 1)), "w_bias": np.zeros(3), **batch_norm_of(rng, 3)}
    params = {name: array.astype(np.float32) for name, array in params.items()}
    graph = read_symbol(symbol, params, {"data": (1, 2, 4, 4)})
    graph.fold_batch_norms()
    assert "BatchNorm" in graph.operators()
    inputs = {"data": rng.normal(size=(1, 2, 4, 4)).astype(np.float32)}
    np.testing.assert_allclose(evaluated(graph, inputs)[0], outputs_of(symbol, params, inputs)[0], rtol=1e-5, atol=1e-5)


def test_weights_that_two_convolutions_share_are_folded_for_each_alone(rng):
    weight, x = S.var("w_weight"), S.var("data")
    pair = [S.Convolution(x + k, weight, kernel=(1, 1), num_filter=3, no_bias=True) for k in (0, 1)]
    symbol = S.BatchNorm(pair[0], fix_gamma=False, name="n") + S.BatchNorm(pair[1], fix_gamma=False, name="m")
    params = {"w_weight": rng.normal(size=(3, 2, 1, 1)), **batch_norm_of(rng, 3), **batch_norm_of(rng, 3, "m")}
    params = {name: array.astype(np.float32) for name, array in params.items()}
    graph = read_symbol(symbol, params, {"data": (1, 2, 4, 4)})
    graph.fold_batch_norms()
    assert "BatchNorm" not in graph.operators()
    inputs = {"data": rng.normal(size=(1, 2, 4, 4)).astype(np.float32)}
    np.testing.assert_allclose(evaluated(graph, inputs)[0], outputs_of(symbol, params, inputs)[0], rtol=1e-4, atol=1e-4)


def test_a_batch_norm_after_anything_else_stays(rng):
    symbol = S.BatchNorm(S.relu(S.Convolution(S.var("data"), kernel=(1, 1), num_filter=3, name="w")), name="n")
    params = {"w_weight": rng.normal(size=(3, 2, 1, 1)), "w_bias": np.zeros(3), **batch_norm_of(rng, 3)}
    graph = read_symbol(symbol, {k: v.astype(np.float32) for k, v in params.items()}, {"data": (1, 2, 4, 4)})
    graph.fold_batch_norms()
    assert "BatchNorm" in graph.operators()


def test_the_terms_of_a_batch_norm_need_its_arrays():
    symbol = S.BatchNorm(S.var("data"), name="n")
    shapes = {"data": (2, 3), **{f"n_{role}": (3,) for role in ("gamma", "beta", "moving_mean", "moving_var")}}
    ((found, _),) = read_symbol(symbol, {}, shapes).outputs
    with pytest.raises(DeployError, match="n: expected the four arrays"):
        batch_norm_terms(found)


# ---- pixel shuffles --------------------------------------------------------------------------------------------------


def chain(x, splits, axes, end=(0, 0, -3, -3)):
    for split in splits:
        x = S.reshape(x, split)
    return S.reshape(S.transpose(x, axes), end)


def shuffles(symbol, shape=(2, 12, 3, 5)):
    graph = read_symbol(symbol, {}, {"data": shape})
    assert isinstance(graph, Graph)
    graph.find_pixel_shuffles()
    return graph, [each for each in graph if each.op == "_pixel_shuffle"]


@pytest.mark.parametrize(
    ("splits", "axes", "block", "block_first"),
    [
        ([(0, -4, -1, 4, 0, 0), (0, 0, -4, 2, 2, 0, 0)], (0, 1, 4, 2, 5, 3), "(2, 2)", "False"),
        ([(2, 2, 2, 3, 3, 5)], (0, 1, 4, 2, 5, 3), "(2, 3)", "False"),
        ([(2, 2, 2, 3, 3, 5)], (0, 3, 4, 1, 5, 2), "(2, 2)", "True"),
        ([(0, -4, 3, -1, 0, 0), (0, 0, -4, 2, -1, 0, 0)], (0, 3, 4, 1, 5, 2), "(3, 2)", "True"),
    ],
)
def test_a_chain_that_is_a_pixel_shuffle_becomes_one_node(splits, axes, block, block_first):
    symbol = S.relu(chain(S.sqrt(S.var("data")), splits, axes))
    graph, found = shuffles(symbol)
    assert graph.operators() == {"sqrt", "_pixel_shuffle", "relu"}
    assert found[0].attrs == {"block": block, "block_first": block_first}
    f, g = found[0].integers("block")
    assert found[0].shape == (2, 12 // (f * g), 3 * f, 5 * g)
    # What the description says is what MXNet's chain does.
    x = np.arange(2 * 12 * 15).reshape(2, 12, 3, 5)
    expected = outputs_of(chain(S.var("data"), splits, axes), {}, {"data": x})[0]
    for c in range(12 // (f * g)):
        for i in range(f):
            for j in range(g):
                source = (i * g + j) * (12 // (f * g)) + c if block_first == "True" else (c * f + i) * g + j
                np.testing.assert_array_equal(expected[:, c, i::f, j::g], x[:, source])


@pytest.mark.parametrize(
    ("splits", "axes", "end"),
    [
        ([(2, 3, 2, 2, 3, 5)], (0, 1, 4, 3, 5, 2), (0, 0, -3, -3)),  # rows and columns the other way round
        ([(2, 3, 2, 2, 3, 5)], (0, 1, 4, 2, 5, 3), (2, 6, 3, 10)),  # joined to another shape
        ([(2, 3, 2, 2, 5, 3)], (0, 1, 4, 2, 5, 3), (0, 0, -3, -3)),  # another map than the one that came
    ],
)
def test_other_chains_stay(splits, axes, end):
    graph, found = shuffles(chain(S.sqrt(S.var("data")), splits, axes, end))
    assert found == [] and "transpose" in graph.operators()


@pytest.mark.parametrize(
    ("axis", "end", "found"),
    [(2, (0, -3, 0, 0), True), (1, (0, -3, 0, 0), False), (2, (0, 0, -3, 0), False), (2, (2, 3, 4, 15), False)],
)
def test_channels_that_are_taken_from_maps_in_turn_become_one_node(axis, end, found):
    x = S.var("data")
    graph = read_symbol(S.reshape(S.stack(x, S.sqrt(x), axis=axis), end), {}, {"data": (2, 6, 3, 5)})
    graph.find_channel_shuffles()
    assert ("_channel_shuffle" in graph.operators()) is found
    assert ("stack" in graph.operators()) is not found


def test_what_is_within_a_pixel_shuffle_and_used_elsewhere_stays_as_well():
    middle = S.transpose(S.reshape(S.var("data"), (2, 3, 2, 2, 3, 5)), (0, 1, 4, 2, 5, 3))
    graph, found = shuffles(S.Group([S.reshape(middle, (0, 0, -3, -3)), S.relu(middle)]))
    assert len(found) == 1 and {"transpose", "relu"} <= graph.operators()
