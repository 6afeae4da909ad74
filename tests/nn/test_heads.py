"""The heads against 1x1 convolutions worked out in NumPy, anchor by anchor."""

import numpy as np
import pytest

from gluonface._compat import mx
from gluonface.decode import LIGHT_ANCHORS, POSE_BINS, AnchorSpec, anchors_for
from gluonface.nn.heads import AnchorHead, CellFeatures, MeshHead, PoseHead, SharedAnchorHead

HYBRID = pytest.mark.parametrize("hybrid", [False, True], ids=["imperative", "hybridized"])
SIZES = pytest.mark.parametrize("size_hw", [(64, 64), (33, 70), (1, 9)])
CHANNELS, BATCH = 5, 2
WIDTH = 3 * POSE_BINS


def maps_of(size_hw, rng, spec=LIGHT_ANCHORS, channels=CHANNELS, batch=BATCH) -> list[np.ndarray]:
    """A level's map each, of the sizes that `anchors_for` counts on."""
    return [
        rng.normal(size=(batch, channels, -(-size_hw[0] // s), -(-size_hw[1] // s))).astype(np.float32)
        for s in spec.strides
    ]


def brute_force(maps, weights, biases, per_cell) -> np.ndarray:
    """(B, N, width) by loops: level after level, rows, columns, then the anchors of a cell."""
    rows = []
    for level, weight, bias in zip(maps, weights, biases):
        width = len(weight) // per_cell
        for y in range(level.shape[2]):
            for x in range(level.shape[3]):
                for a in range(per_cell):
                    own = slice(a * width, (a + 1) * width)
                    rows.append(level[:, :, y, x] @ weight[own].T + bias[own])
    return np.stack(rows, axis=1)


@HYBRID
@SIZES
def test_an_anchor_head_predicts_in_the_order_of_the_anchors(hybrid, size_hw, rng):
    head = AnchorHead(3, LIGHT_ANCHORS.per_cell, CHANNELS, 3)
    head.initialize(mx.init.Normal(1))
    if hybrid:
        head.hybridize()
    maps = maps_of(size_hw, rng)
    found = head(*map(mx.nd.array, maps)).asnumpy()
    weights = [conv.weight.data().asnumpy()[:, :, 0, 0] for conv in head.convs]
    biases = [conv.bias.data().asnumpy() for conv in head.convs]
    assert found.shape == (BATCH, LIGHT_ANCHORS.count(size_hw), 3)
    np.testing.assert_allclose(found, brute_force(maps, weights, biases, 2), rtol=1e-4, atol=1e-5)


@HYBRID
@SIZES
def test_cells_come_in_the_order_of_their_anchors(hybrid, size_hw, rng):
    cells = CellFeatures()
    if hybrid:
        cells.hybridize()
    maps = maps_of(size_hw, rng)
    found = cells(*map(mx.nd.array, maps)).asnumpy()
    eyes = [np.tile(np.eye(CHANNELS, dtype=np.float32), (2, 1))] * 3
    per_anchor = brute_force(maps, eyes, [np.zeros(2 * CHANNELS)] * 3, 2)
    assert found.shape == (BATCH, LIGHT_ANCHORS.count(size_hw) // 2, CHANNELS)
    np.testing.assert_array_equal(np.repeat(found, 2, axis=1), per_anchor)


def pose_head(spec=LIGHT_ANCHORS, hybrid=False):
    head = PoseHead(spec, CHANNELS)
    head.initialize()
    for parameter in (head.dense.weight, head.dense.bias):
        parameter.set_data(mx.nd.random.normal(shape=parameter.shape))
    if hybrid:
        head.hybridize()
    return head


def sides_of(size_hw, chosen, spec=LIGHT_ANCHORS) -> np.ndarray:
    anchors = anchors_for(size_hw, spec)
    return (anchors[:, 2] - anchors[:, 0])[chosen]


def by_convolutions(head, maps, spec=LIGHT_ANCHORS) -> np.ndarray:
    """Pose logits of all anchors: the head's weights as those of a 1x1 convolution a level."""
    levels, a = len(spec.strides), spec.per_cell
    weights = head.dense.weight.data().asnumpy().reshape(levels, a * WIDTH, CHANNELS)
    biases = head.dense.bias.data().asnumpy().reshape(levels, a * WIDTH)
    return brute_force(maps, weights, biases, a)


@HYBRID
@SIZES
def test_poses_of_all_anchors_are_those_of_a_convolution_a_level(hybrid, size_hw, rng):
    head = pose_head(hybrid=hybrid)
    maps = maps_of(size_hw, rng)
    # In an order of its own for each image, as NMS leaves them.
    chosen = np.stack([rng.permutation(LIGHT_ANCHORS.count(size_hw)) for _ in range(BATCH)])
    cells = CellFeatures()(*map(mx.nd.array, maps))
    found = head(cells, mx.nd.array(chosen), mx.nd.array(sides_of(size_hw, chosen))).asnumpy()
    expected = by_convolutions(head, maps)
    assert found.shape == (BATCH, chosen.shape[1], WIDTH)
    np.testing.assert_allclose(found, np.stack([e[c] for e, c in zip(expected, chosen)]), rtol=1e-3, atol=1e-4)


@HYBRID
def test_one_graph_serves_any_number_of_anchors_and_any_input(hybrid, rng):
    head = pose_head(hybrid=hybrid)
    for size_hw, count in (((64, 64), 7), ((40, 96), 1), ((64, 64), 64)):
        maps = maps_of(size_hw, rng)
        chosen = rng.integers(LIGHT_ANCHORS.count(size_hw), size=(BATCH, count))
        cells = CellFeatures()(*map(mx.nd.array, maps))
        found = head(cells, mx.nd.array(chosen), mx.nd.array(sides_of(size_hw, chosen))).asnumpy()
        expected = by_convolutions(head, maps)
        np.testing.assert_allclose(found, np.stack([e[c] for e, c in zip(expected, chosen)]), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "spec",
    [AnchorSpec((8,), ((20, 25, 31.5),)), AnchorSpec((8, 16, 32), ((10,), (24,), (90,)))],
    ids=["three a cell", "one a cell"],
)
def test_any_spec_whose_sides_grow_is_served(spec, rng):
    head = pose_head(spec)
    maps = maps_of((40, 64), rng, spec)
    chosen = np.tile(np.arange(spec.count((40, 64))), (BATCH, 1))
    cells = CellFeatures()(*map(mx.nd.array, maps))
    found = head(cells, mx.nd.array(chosen), mx.nd.array(sides_of((40, 64), chosen, spec))).asnumpy()
    np.testing.assert_allclose(found, by_convolutions(head, maps, spec), rtol=1e-3, atol=1e-4)


def test_a_pose_teaches_the_weights_of_its_kind_of_anchor_and_the_vector_of_its_cell(rng):
    head = pose_head()
    cells = mx.nd.array(rng.normal(size=(BATCH, LIGHT_ANCHORS.count((64, 64)) // 2, CHANNELS)))
    cells.attach_grad()
    # Of the first image an anchor of 32 pixels, of the second one of 128: kinds 1 and 3.
    chosen = np.array([[2 * 17 + 1], [2 * (64 + 5) + 1]])
    with mx.autograd.record():
        loss = head(cells, mx.nd.array(chosen), mx.nd.array(sides_of((64, 64), chosen))).sum()
    loss.backward()
    by_kind = np.abs(head.dense.weight.grad().asnumpy()).reshape(6, -1).sum(axis=1)
    assert (by_kind > 0).tolist() == [False, True, False, True, False, False]
    touched = np.argwhere(np.abs(cells.grad.asnumpy()).sum(axis=2) > 0)
    assert touched.tolist() == [[0, 17], [1, 69]]


def test_an_untrained_pose_predictor_knows_which_bins_are_neighbours(rng):
    head = PoseHead(LIGHT_ANCHORS, CHANNELS)
    head.initialize(mx.init.MSRAPrelu())
    cells = mx.nd.array(np.abs(rng.normal(size=(1, 40, CHANNELS))))
    chosen = mx.nd.array(np.arange(0, 80, 2)[None])
    logits = head(cells, chosen, mx.nd.full((1, 40), 64)).asnumpy().reshape(-1, POSE_BINS)
    # One peak near the middle, falling off to either side, somewhere else for other features.
    peaks = logits.argmax(axis=1)
    assert np.abs(peaks - POSE_BINS / 2).max() < 8 and len(set(peaks)) > 1
    assert (np.diff(logits, n=2, axis=1) < 0).all()


def test_sides_that_do_not_tell_anchors_apart_are_refused():
    with pytest.raises(ValueError, match="expected anchor sides that grow"):
        PoseHead(AnchorSpec((8, 16), ((16, 32), (32, 64))), CHANNELS)


# ---- meshes ----------------------------------------------------------------------------------------------------------

THREE_A_CELL = AnchorSpec((8, 16), ((10, 13, 16), (20, 25, 32)))


@HYBRID
@SIZES
def test_meshes_of_chosen_anchors_are_those_of_the_dense_layer(hybrid, size_hw, rng):
    vertices, per_cell = 7, THREE_A_CELL.per_cell
    head, dense = MeshHead(vertices, per_cell, CHANNELS), SharedAnchorHead(3 * vertices, per_cell, CHANNELS)
    for block in (head, dense):
        block.initialize(mx.init.Normal(1))
    # The layer's weights, anchor by anchor of a cell, as those of a 1x1 convolution.
    weight = rng.normal(size=(3 * vertices, per_cell, CHANNELS)).astype(np.float32)
    bias = rng.normal(size=(3 * vertices, per_cell)).astype(np.float32)
    head.weight.set_data(mx.nd.array(weight.reshape(3 * vertices, -1)))
    head.bias.set_data(mx.nd.array(bias))
    dense.weight.set_data(mx.nd.array(weight.transpose(1, 0, 2).reshape(-1, CHANNELS, 1, 1)))
    dense.bias.set_data(mx.nd.array(bias.T.ravel()))
    if hybrid:
        head.hybridize()
    maps = [mx.nd.array(level) for level in maps_of(size_hw, rng, THREE_A_CELL)]
    every = dense(*maps).asnumpy()
    assert every.shape == (BATCH, THREE_A_CELL.count(size_hw), 3 * vertices)
    chosen = np.stack([rng.permutation(every.shape[1]) for _ in range(BATCH)])
    found = head(CellFeatures()(*maps), mx.nd.array(chosen)).asnumpy()
    np.testing.assert_allclose(found, np.stack([e[c] for e, c in zip(every, chosen)]), rtol=1e-3, atol=1e-4)


def test_a_mesh_teaches_the_weights_of_its_anchor_of_a_cell_and_the_vector_of_that_cell(rng):
    head = MeshHead(4, 3, CHANNELS)
    head.initialize(mx.init.Normal(1))
    cells = mx.nd.array(rng.normal(size=(BATCH, 6, CHANNELS)))
    cells.attach_grad()
    with mx.autograd.record():
        loss = head(cells, mx.nd.array([[3 * 2 + 1], [3 * 5 + 2]])).sum()
    loss.backward()
    by_anchor = np.abs(head.weight.grad().asnumpy()).reshape(12, 3, CHANNELS).sum(axis=(0, 2))
    assert (by_anchor > 0).tolist() == [False, True, True]
    assert np.argwhere(np.abs(cells.grad.asnumpy()).sum(axis=2) > 0).tolist() == [[0, 2], [1, 5]]
