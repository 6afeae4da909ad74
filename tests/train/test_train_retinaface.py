import json

import cv2
import numpy as np
import pytest

from gluonface._compat import mx
from gluonface.errors import InputError
from gluonface.image import save_image
from gluonface.mesh import save_topology, subset_topology, topology_468, turn_upright
from gluonface.model_zoo import get_model, model_facts

PLAIN = model_facts("retinaface_mobilenet0.25_widerface")  # of a model without weights: ImageNet's mean and std


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("train_retinaface")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory, face_line):
    """Eight photos of a drawn face on noise, with five points, in the corpus format."""
    folder = tmp_path_factory.mktemp("drawn")
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    lines = []
    for i in range(8):
        image = rng.integers(0, 90, (96, 96, 3), np.uint8)
        x, y, r = rng.integers(30, 66), rng.integers(30, 66), 20
        cv2.ellipse(image, (int(x), int(y)), (r, r), 0, 0, 360, (220, 180, 160), -1)
        points = [[x - 8, y - 6], [x + 8, y - 6], [x, y], [x - 6, y + 9], [x + 6, y + 9]]
        for px, py in points:
            cv2.circle(image, (int(px), int(py)), 2, (20, 20, 60), -1)
        save_image(folder / "images" / f"{i}.png", image)
        lines.append(face_line(f"{i}.png", x, y, r, points))
    (folder / "all.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def arguments(drawn, out, *more):
    data = str(drawn / "all.jsonl")
    sizes = ["--data-shape", "64", "--val-size", "96", "--batch-size", "4", "-j", "0"]
    return ["--train", data, "--val", data, *sizes, "--save-prefix", str(out), *more]


def read_log(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def test_a_run_learns_validates_and_leaves_weights_that_load(script, drawn, tmp_path):
    # Eight updates an epoch.
    often = ("--source-weight", "drawn=4", "--mosaic", "0.25", "--rotate", "0.5")
    script.main(arguments(drawn, tmp_path, "--epochs", "2", "--lr", "3e-3", "--warmup-epochs", "0", *often))
    epochs = [row for row in read_log(tmp_path) if row["kind"] == "epoch"]
    assert [row["epoch"] for row in epochs] == [0, 1]
    for row in epochs:
        assert set(row["losses"]) == {"cls", "box", "landmark"} and all(np.isfinite(v) for v in row["losses"].values())
        assert 0 <= row["validation"]["ap50"] <= 1
    assert epochs[1]["losses"]["cls"] < epochs[0]["losses"]["cls"]
    net = get_model("retinaface_mobilenet0.25_widerface")
    net.load_parameters(tmp_path / "best.params")


def test_a_resumed_run_ends_with_the_weights_of_one_that_was_not_stopped(script, drawn, tmp_path):
    common = ("--lr", "1e-3", "--warmup-epochs", "0", "--rotate", "1", "--ema-decay", "0.9", "--lr-mode", "constant")
    script.main(arguments(drawn, tmp_path / "a", "--epochs", "2", *common))
    script.main(arguments(drawn, tmp_path / "b", "--epochs", "1", *common))
    script.main(arguments(drawn, tmp_path / "b", "--epochs", "2", "--resume", str(tmp_path / "b"), *common))
    assert (tmp_path / "a" / "last.params").read_bytes() == (tmp_path / "b" / "last.params").read_bytes()


def test_weights_of_the_same_model_are_a_start(script, drawn, tmp_path):
    net = get_model("retinaface_mobilenet0.25_widerface")
    net.initialize()
    script.build_net(script.parse_args(arguments(drawn, tmp_path)))
    net.network(mx.nd.zeros((1, 3, 64, 64)))
    file = tmp_path / "start.params"
    net.save_parameters(str(file))
    built = script.build_net(script.parse_args(arguments(drawn, tmp_path, "--start", str(file))))
    ours, theirs = (n._collect_params_with_prefix() for n in (built, net))
    for name in theirs:
        np.testing.assert_array_equal(ours[name].data().asnumpy(), theirs[name].data().asnumpy())


def test_a_model_that_has_weights_is_a_start_with_its_own_preprocessing(script):
    args = script.parse_args(["--train", "x", "--start", "retinaface_mobilenet0.25_mask"])
    net, source = script.build_net(args), get_model("retinaface_mobilenet0.25_mask", pretrained=True)
    assert (net.facts.mean, net.facts.std) == (source.facts.mean, source.facts.std) != (PLAIN.mean, PLAIN.std)
    name = "network.cls_head.convs.0.weight"
    ours, theirs = (n._collect_params_with_prefix()[name].data().asnumpy() for n in (net, source))
    np.testing.assert_array_equal(ours, theirs)


# ---- with a mesh -----------------------------------------------------------------------------------------------------

WHOLE = "retinaface_mobilenet0.25_mesh468_fc26"


@pytest.fixture(scope="module")
def meshed(drawn):
    """The photos of `drawn`, every other face with a mesh: the canonical one, brought to its box."""
    lines = [json.loads(line) for line in (drawn / "all.jsonl").read_text().splitlines()]
    shape = turn_upright(topology_468().canonical)
    meshes = []
    for line in lines[::2]:
        face = line["faces"][0]
        x1, y1, x2, y2 = face["box"]
        scale = (y2 - y1) / np.ptp(shape[:, 1])
        meshes.append((shape - shape.mean(axis=0)) * scale + ((x1 + x2) / 2, (y1 + y2) / 2, 0))
        face["mesh468"] = len(meshes) - 1
    (drawn / "meshed.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    np.savez(drawn / "meshes.npz", mesh468=np.float32(meshes))
    return drawn


def whole_arguments(meshed, out, *more):
    sizes = ["--data-shape", "64", "--val-size", "64", "--batch-size", "4", "-j", "0"]
    data = ["--train", str(meshed / "meshed.jsonl"), "--val", str(meshed / "meshed.jsonl")]
    return ["--model", WHOLE, *data, *sizes, "--save-prefix", str(out), "--warmup-epochs", "0", *more]


def test_box_points_and_mesh_are_learnt_together_where_only_some_faces_have_a_mesh(script, meshed, tmp_path):
    mesh = ("--mesh", str(meshed / "meshes.npz"), "--val-mesh", str(meshed / "meshed.jsonl"))
    often = ("--source-weight", "drawn=2", "--mosaic", "0.25", "--rotate", "0.5", "--epochs", "3", "--lr", "3e-3")
    script.main(whole_arguments(meshed, tmp_path, *mesh, *often))
    epochs = [row for row in read_log(tmp_path) if row["kind"] == "epoch"]
    for row in epochs:
        assert set(row["losses"]) == {"first_cls", "first_box", "cls", "box", "landmark", "vertex", "edge"}
        assert all(np.isfinite(v) and v > 0 for v in row["losses"].values())
        assert {"ap50", "mesh_nme", "mesh_nme_3d", "mesh_missed"} <= set(row["validation"])
    for part in ("first_cls", "cls", "edge"):
        assert epochs[2]["losses"][part] < epochs[0]["losses"][part]
    net = get_model(WHOLE)
    net.load_parameters(tmp_path / "last.params")


def test_the_rows_of_the_ablation_are_flags(script, meshed, tmp_path):
    bare = script.build_net(script.parse_args(whole_arguments(meshed, tmp_path, "--no-cascade", "--deformable", "yes")))
    assert bare.network.mesh_head is None and not bare.network.cascade
    assert hasattr(bare.network.contexts[0].conv3[0], "offset")
    mesh = ("--mesh", str(meshed / "meshes.npz"))
    full = script.build_net(script.parse_args(whole_arguments(meshed, tmp_path, *mesh)))
    assert full.network.mesh_head is not None and full.network.cascade


def test_thresholds_are_the_paper_s_with_a_mesh_and_as_ever_without(script, meshed, tmp_path):
    whole = script.parse_args(whole_arguments(meshed, tmp_path))
    assert (whole.positive_iou, whole.negative_iou) == (0.7, 0.3)
    assert (whole.refined_positive_iou, whole.refined_negative_iou) == (0.5, 0.4)
    light = script.parse_args(arguments(meshed, tmp_path))
    assert (light.positive_iou, light.negative_iou) == (0.35, 0.35)
    assert script.parse_args(whole_arguments(meshed, tmp_path, "--positive-iou", "0.6")).positive_iou == 0.6


def test_a_light_net_takes_no_mesh_and_a_mesh_of_another_kind_is_refused(script, meshed, tmp_path, capsys):
    with pytest.raises(SystemExit):
        script.parse_args(arguments(meshed, tmp_path, "--mesh", "meshes.npz"))
    assert "retinaface_mobilenet0.25_widerface has no mesh" in capsys.readouterr().err
    topology = topology_468()
    half = subset_topology(
        "half", topology.canonical, topology.triangles, np.arange(234), triangles_of="model", nose_tip=topology.nose_tip
    )
    save_topology(tmp_path / "half.npz", half)
    mesh = ("--mesh", str(meshed / "meshes.npz"), "--topology", str(tmp_path / "half.npz"))
    with pytest.raises(InputError, match="expected a topology of 468 vertices, got half of 234"):
        script.read_topology(script.parse_args(whole_arguments(meshed, tmp_path, *mesh)))


def test_the_losses_of_one_batch_are_those_of_its_halves_on_two_devices(script, meshed, tmp_path):
    args = script.parse_args(whole_arguments(meshed, tmp_path, "--mesh", str(meshed / "meshes.npz")))
    topology, contexts = script.read_topology(args), [mx.cpu(0), mx.cpu(1)]
    net = script.build_net(args)
    losses = script.CascadeLosses(args, topology)
    net.collect_params().reset_ctx(contexts)
    losses.mesh.initialize(ctx=contexts)
    encode = script.anchor_targets(args, script.MeshTargets, num_vertices=468).encode_labels
    labels = script.read_samples(args, topology)[0].faces
    targets = [np.stack([array] * 2) for array in encode(labels)]
    images = np.random.default_rng(0).normal(0, 1, (1, 3, 64, 64)).repeat(2, axis=0)
    per_anchor = np.full(2, 2 / (targets[0] == 1).sum())
    whole = losses(net, *(mx.nd.array(a) for a in (images, *targets, per_anchor)))
    halves = [
        losses(net, *(mx.nd.array(a[i : i + 1], ctx=c) for a in (images, *targets, per_anchor)))
        for i, c in enumerate(contexts)
    ]
    for name, value in whole.items():
        ours = [half[name].asnumpy() for half in halves]
        np.testing.assert_allclose(np.concatenate(ours), value.asnumpy(), rtol=1e-3, atol=1e-6)
        assert value.asnumpy().min() > 0
