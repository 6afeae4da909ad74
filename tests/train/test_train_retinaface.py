import json

import cv2
import numpy as np
import pytest

from gluonface._compat import mx
from gluonface.data.base import FaceLabels, FaceSample, concat_labels
from gluonface.errors import InputError
from gluonface.faces import Faces
from gluonface.image import save_image
from gluonface.mesh import pose_from_mesh, save_topology, subset_topology, topology_468, turn_upright
from gluonface.metrics import evaluate_mesh
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


def test_meshes_are_validated_as_they_are_evaluated(script, monkeypatch, rng):
    """Depth counts from the tip of the nose; faces without mesh and ignored ones do not count, missed ones are told."""
    topology = topology_468()
    truth = (turn_upright(topology.canonical)[None] * 2 + (40, 40, 0)).repeat(3, axis=0)
    truth[2] = np.nan
    labels = FaceLabels([[0, 0, 80, 80], [100, 0, 180, 80], [200, 0, 280, 80]], mesh=truth)
    bare = FaceLabels([[0, 0, 80, 80]])
    ignored = labels[[0]].with_(ignore=[True])
    photos = {"a.png": labels, "b.png": bare, "c.png": ignored, "d.png": labels[[1]]}
    samples = [FaceSample(path, (300, 300), faces) for path, faces in photos.items()]
    off = truth[:1] + (3, 0, 4) + np.eye(468)[7][:, None] * (0, 0, 46.8)
    found = {
        "a.png": Faces(labels.boxes[:1], [0.9], mesh=off, size_hw=(300, 300)),
        "d.png": Faces.empty((300, 300)),
    }

    class Analyzer:
        def __init__(self, net, **options):
            pass

        def stream(self, paths):
            return [found[path] for path in paths]

    monkeypatch.setattr(script, "FaceAnalyzer", Analyzer)
    figures = script.mesh_validator(samples, 64, topology.nose_tip)(None)
    scores = evaluate_mesh(off, truth[:1], [80], topology.nose_tip)
    assert (figures["mesh_nme"], figures["mesh_nme_3d"]) == pytest.approx((scores.xy, scores.xyz), abs=1e-6)
    assert scores.xyz == pytest.approx((3 * 467 + np.hypot(3, 46.8)) / 468 / 80, abs=1e-5)
    assert figures["mesh_missed"] == 2
    with pytest.raises(InputError, match="--val-mesh: expected faces with meshes, got none"):
        script.mesh_validator(samples[1:3], 64, topology.nose_tip)


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


@pytest.mark.parametrize(
    "words",
    ["--topology t.npz", "--val-mesh v.jsonl", "--mesh-weight 1", "--edge-weight .5", "--no-cascade", "--deformable no",
     "--refined-positive-iou .6", "--refined-negative-iou .3"],
)  # fmt: skip
def test_a_light_net_takes_no_flag_of_models_with_a_mesh(script, drawn, tmp_path, capsys, words):
    with pytest.raises(SystemExit):
        script.parse_args(arguments(drawn, tmp_path, *words.split()))
    said = f"{words.split()[0]} does nothing here: {PLAIN.name} has no mesh; those that have are called"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("words", ["--topology t.npz", "--val-mesh v.jsonl", "--mesh-weight 2", "--edge-weight 1"])
def test_how_a_mesh_is_learnt_is_refused_where_none_is(script, meshed, tmp_path, capsys, words):
    with pytest.raises(SystemExit):
        script.parse_args(whole_arguments(meshed, tmp_path, *words.split()))
    assert f"{words.split()[0]} does nothing here: it counts with --mesh" in capsys.readouterr().err
    script.parse_args(whole_arguments(meshed, tmp_path, "--mesh", "m.npz", *words.split()))


@pytest.mark.parametrize("flag", ["--positive-iou", "--negative-iou"])
def test_where_the_first_of_two_heads_learns_is_refused_with_one_head(script, meshed, tmp_path, capsys, flag):
    with pytest.raises(SystemExit):
        script.parse_args(whole_arguments(meshed, tmp_path, flag, ".6", "--no-cascade"))
    assert f"{flag} does nothing here: it counts for the first head of a cascade" in capsys.readouterr().err
    script.parse_args(whole_arguments(meshed, tmp_path, flag, ".6"))


def test_a_mesh_of_another_kind_starts_from_the_weights_of_this_one_but_for_its_own_layer(script):
    name, words = "retinaface_mobilenet0.25_mesh5_fc26", ["--train", "x", "--start", WHOLE]
    args = script.parse_args([*words, "--model", name, "--mesh", "m.npz", "--topology", "t.npz"])
    net, source = script.build_net(args), get_model(WHOLE, pretrained=True)
    ours, theirs = (n._collect_params_with_prefix() for n in (net, source))
    assert set(ours) == set(theirs)
    for key in ours:
        if key.startswith("network.mesh_head."):
            assert ours[key].shape != theirs[key].shape
        else:
            np.testing.assert_array_equal(ours[key].data().asnumpy(), theirs[key].data().asnumpy())


def test_a_model_with_a_mesh_does_not_start_from_another_kind_of_checkpoint(script, meshed, tmp_path, capsys):
    other = ("--start-insightface", "mnet.25-0000.params")
    with pytest.raises(SystemExit):
        script.parse_args(whole_arguments(meshed, tmp_path, *other, "--no-cascade"))
    said = f"--start-insightface does nothing here: it counts for light models, and {WHOLE} has a mesh; give --start"
    assert said in capsys.readouterr().err
    assert script.parse_args(arguments(meshed, tmp_path, *other)).start_insightface == other[1]


def test_a_mesh_that_is_not_its_own_mirror_image_is_learnt_from_the_views_that_are_not_mirrored(
    script, meshed, tmp_path
):
    topology = topology_468()
    part = subset_topology(
        "part", topology.canonical, topology.triangles, np.arange(234), triangles_of="model", nose_tip=topology.nose_tip
    )
    assert part.flip_index is None
    save_topology(tmp_path / "part.npz", part)
    with np.load(meshed / "meshes.npz") as file:
        np.savez(tmp_path / "meshes.npz", part=file["mesh468"][:, :234])
    mesh = ("--mesh", str(tmp_path / "meshes.npz"), "--topology", str(tmp_path / "part.npz"))
    model = ("--model", WHOLE.replace("468", "234"), "--source-weight", "drawn=8", "--mosaic", "0.25")
    args = script.parse_args(whole_arguments(meshed, tmp_path, *mesh, *model))
    with script.make_loader(args, script.config_from_args(args), 0, 1, script.read_topology(args)) as loader:
        batches = [[array[:, 0] for array in arrays[3:]] for arrays in loader.epoch(0)]
    kinds, _, points, meshes = (np.concatenate(arrays) for arrays in zip(*batches))
    there = np.isfinite(meshes).all(axis=(1, 2))
    # Of 64 views half show a face with a mesh, and half of these are mirrored.
    assert len(there) == 64 and 8 <= there.sum() <= 26
    assert (kinds == 1).sum() > 40 and np.isfinite(points[kinds == 1]).all()
    _, residual = pose_from_mesh(meshes[there], part)
    assert residual.max() < 1e-3


def test_the_first_head_s_means_are_of_the_batch_and_the_second_s_of_each_device_s_images(script, meshed, tmp_path):
    args = script.parse_args(whole_arguments(meshed, tmp_path, "--mesh", str(meshed / "meshes.npz")))
    topology, contexts = script.read_topology(args), [mx.cpu(0), mx.cpu(1)]
    net = script.build_net(args)
    losses = script.CascadeLosses(args, topology)
    net.collect_params().reset_ctx(contexts)
    losses.mesh.initialize(ctx=contexts)
    encode = script.anchor_targets(args, script.MeshTargets, num_vertices=468).encode_labels
    samples = script.read_samples(args, topology)
    # A face in the one image, two in the other.
    labels = samples[0].faces, concat_labels([samples[2].faces, samples[4].faces])
    targets = [np.stack(arrays) for arrays in zip(*map(encode, labels))]
    images = np.random.default_rng(0).normal(0, 1, (2, 3, 64, 64))
    batches = script.NormalisedBatches([(images, *targets)], script.positives)
    arrays = next(iter(batches))
    whole = losses(net, *map(mx.nd.array, arrays))
    halves = [losses(net, *(mx.nd.array(a[i : i + 1], ctx=c) for a in arrays)) for i, c in enumerate(contexts)]
    shares = {}
    for name, value in whole.items():
        value, ours = value.asnumpy(), np.concatenate([half[name].asnumpy() for half in halves])
        assert min(value.min(), ours.min()) > 0
        shares[name] = value / ours
    for name in ("first_cls", "first_box"):
        np.testing.assert_allclose(shares[name], 1, rtol=1e-3)
    for name in ("cls", "box", "landmark", "vertex", "edge"):
        # In the batch an image's anchors count as all others do; alone, they are all that the mean is over.
        np.testing.assert_allclose(shares[name].sum(), 2, rtol=1e-3)
        assert abs(shares[name] - 1).min() > 0.01
    np.testing.assert_allclose(shares["cls"], shares["box"], rtol=1e-3)
    np.testing.assert_allclose(shares["vertex"], shares["edge"], rtol=1e-3)
