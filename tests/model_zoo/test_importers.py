import json

import numpy as np
import pytest

from gluonface._compat import mx
from gluonface.errors import WeightsError
from gluonface.geometry import apply_letterbox, letterbox
from gluonface.image import load_image
from gluonface.model_zoo import get_model, import_insightface, store
from gluonface.model_zoo.backbone import Backbone, Features
from gluonface.model_zoo.importers import load_torch_backbone


@pytest.fixture
def checkpoint(facedata):
    return facedata / "interop" / "mnet.25-0000.params"


@pytest.fixture
def photo(facedata):
    """A photo of the corpus as (1, 3, 320, 416) with the values 0..255 that the checkpoint wants."""
    image = load_image(facedata / "images" / "mask" / "mask_105.jpg")
    fitted = letterbox(image.shape[:2], (320, 416))
    return mx.nd.array(apply_letterbox(image, fitted).transpose(2, 0, 1)[None].astype(np.float32))


def run_symbol(checkpoint, x):
    """MXNet's own run of the checkpoint: probabilities, box and point offsets by stride, small anchors first."""
    symbol, arg, aux = mx.model.load_checkpoint(str(checkpoint).removesuffix("-0000.params"), 0)
    outputs = symbol.bind(mx.cpu(), {**arg, "data": x}, aux_states=aux).forward()
    outputs = {n: o.asnumpy()[0] for n, o in zip(symbol.list_outputs(), outputs)}
    found = {}
    for stride in (8, 16, 32):
        prob = outputs[f"face_rpn_cls_prob_reshape_stride{stride}_output"]
        h, w = prob.shape[1:]
        rows = [prob.reshape(2, 2, h, w)[1][:, None]]  # (class, anchor): faces
        for name, width in (("bbox", 4), ("landmark", 10)):
            rows.append(outputs[f"face_rpn_{name}_pred_stride{stride}_output"].reshape(2, width, h, w))
        found[stride] = [r[::-1].transpose(2, 3, 0, 1) for r in rows]  # (h, w, anchor, width)
    return found


def decode_insightface(found, x):
    """Boxes (N, 4) and points (N, 10) as InsightFace decodes them, in continuous coordinates, written independently."""
    boxes, points = [], []
    for stride, sizes in ((8, (16, 32)), (16, (64, 128)), (32, (256, 512))):
        _, box, point = found[stride]
        h, w = box.shape[:2]
        for i in range(h):
            for j in range(w):
                for a, size in enumerate(sizes):
                    # Base anchor 0..15 counted from pixel centres: its centre is 8 pixels from the cell's corner.
                    cx, cy = j * stride + 8.0, i * stride + 8.0
                    dx, dy, dw, dh = box[i, j, a]
                    bw, bh = size * np.exp(dw), size * np.exp(dh)
                    x0, y0 = cx + dx * size, cy + dy * size
                    boxes.append([x0 - bw / 2, y0 - bh / 2, x0 + bw / 2, y0 + bh / 2])
                    points.append((point[i, j, a].reshape(5, 2) * size + [cx, cy]).reshape(-1))
    return np.array(boxes), np.array(points)


def test_an_imported_insightface_net_gives_the_outputs_of_its_own_symbol(checkpoint, photo):
    net = import_insightface(checkpoint)
    expected = run_symbol(checkpoint, photo)
    cls, box_preds, landmark_preds = net.network(photo)
    probability = mx.nd.softmax(cls, axis=-1).asnumpy()[0, :, 1]
    theirs = np.concatenate([expected[s][0].reshape(-1) for s in (8, 16, 32)])
    np.testing.assert_allclose(probability, theirs, atol=1e-4)
    assert theirs.max() > 0.9, "the photo has faces"
    anchors = net.anchors(photo)
    boxes, points = decode_insightface(expected, photo)
    # Pixels of anchors of up to 512: 1e-4 of the raw output is 0.05 pixels there.
    scale = (anchors[0, :, 2] - anchors[0, :, 0]).asnumpy()[:, None]
    ours = net.decode_boxes(box_preds, anchors).asnumpy()[0]
    np.testing.assert_allclose(ours / scale, boxes / scale, atol=1e-4)
    ours = net.decode_points(landmark_preds, anchors).asnumpy()[0]
    np.testing.assert_allclose(ours / scale, points / scale, atol=1e-4)


def test_an_imported_net_says_how_it_wants_its_input(checkpoint):
    facts = import_insightface(checkpoint).facts
    assert facts.mean == (0, 0, 0) and facts.std == (1 / 255,) * 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda nodes: nodes["mobilenet0_conv3_fwd"]["attrs"].update(stride="(1, 1)"), "mobilenet0_conv3_fwd: stride"),
        (lambda nodes: nodes["rf_c2_aggr"]["attrs"].update(num_filter="128"), "rf_c2_aggr: num_filter 128"),
        (lambda nodes: nodes["rf_c1_aggr_relu"].update(op="LeakyReLU"), "activation LeakyReLU"),
        (lambda nodes: nodes["rf_c3_det_conv1"].update(name="other"), "convolution rf_c3_det_conv1 is missing"),
    ],
)
def test_a_symbol_that_differs_is_refused_naming_the_layer(checkpoint, tmp_path, change, message):
    symbol = json.loads(checkpoint.with_name("mnet.25-symbol.json").read_text())
    change({n["name"]: n for n in symbol["nodes"]})
    changed = tmp_path / "changed-symbol.json"
    changed.write_text(json.dumps(symbol))
    with pytest.raises(WeightsError, match=message):
        import_insightface(checkpoint, changed)


def test_missing_and_left_over_arrays_are_named(checkpoint, tmp_path):
    arrays = store.read_params(checkpoint)
    arrays["arg:surplus"] = arrays.pop("arg:rf_c1_aggr_weight")
    changed = store.write_params(tmp_path / "x-0000.params", arrays)
    with pytest.raises(WeightsError, match="(?s)rf_c1_aggr_weight is missing.*without a place.*surplus"):
        import_insightface(changed, checkpoint.with_name("mnet.25-symbol.json"))


def test_a_damaged_symbol_is_a_typed_error(checkpoint, tmp_path):
    bad = tmp_path / "bad.json"
    for content in ("", "{}", '{"nodes": [1]}', '{"nodes": [{"name": "a", "op": "b", "inputs": [[9]]}]}'):
        bad.write_text(content)
        with pytest.raises(WeightsError, match="cannot read the symbol"):
            import_insightface(checkpoint, bad)


def torch_mobilenet(rng):
    """Arrays of a MobileNetV1 0.25 under PyTorch names."""
    arrays, stages = {}, [(8, 16, 32, 32, 64, 64), (128,) * 6, (256, 256)]

    def norm(stem, channels):
        for name in ("weight", "bias", "running_mean"):
            arrays[f"{stem}.{name}"] = rng.normal(size=channels).astype(np.float32)
        arrays[f"{stem}.running_var"] = rng.uniform(0.5, 2, channels).astype(np.float32)
        arrays[f"{stem}.num_batches_tracked"] = np.array(1)

    channels = 3
    for s, widths in enumerate(stages, 1):
        for b, width in enumerate(widths):
            stem = f"module.stage{s}.{b}"
            if s == 1 and b == 0:
                arrays[f"{stem}.0.weight"] = rng.normal(size=(width, 3, 3, 3)).astype(np.float32)
                norm(f"{stem}.1", width)
            else:
                arrays[f"{stem}.0.weight"] = rng.normal(size=(channels, 1, 3, 3)).astype(np.float32)
                norm(f"{stem}.1", channels)
                arrays[f"{stem}.3.weight"] = rng.normal(size=(width, channels, 1, 1)).astype(np.float32)
                norm(f"{stem}.4", width)
            channels = width
    arrays["module.fc.weight"] = rng.normal(size=(1000, 256)).astype(np.float32)
    arrays["module.fc.bias"] = rng.normal(size=1000).astype(np.float32)
    return arrays


def conv_norm_relu(x, arrays, conv, norm, stride, groups, relu=True):
    """A convolution by its definition, BatchNorm and ReLU in NumPy."""
    weight = arrays[f"{conv}.weight"].astype(np.float64)
    k = weight.shape[2]
    x = np.pad(x, ((0, 0), (k // 2,) * 2, (k // 2,) * 2))
    h, w = ((n - k) // stride + 1 for n in x.shape[1:])
    windows = np.stack(
        [x[:, i : i + stride * h : stride, j : j + stride * w : stride] for i in range(k) for j in range(k)], axis=1
    )  # (C, k*k, h, w)
    kernel = weight.reshape(*weight.shape[:2], k * k)
    if groups == 1:
        y = np.einsum("ock,ckhw->ohw", kernel, windows)
    else:
        y = np.einsum("ck,ckhw->chw", kernel[:, 0], windows)
    g = {
        n: arrays[f"{norm}.{n}"][:, None, None].astype(np.float64)
        for n in ("weight", "bias", "running_mean", "running_var")
    }
    y = (y - g["running_mean"]) / np.sqrt(g["running_var"] + 1e-5) * g["weight"] + g["bias"]
    return np.maximum(y, 0) if relu else y


def test_torch_named_arrays_give_the_maps_computed_by_hand():
    rng = np.random.default_rng(0)
    arrays = torch_mobilenet(rng)
    for name in arrays:  # keep the maps of a useful size through 27 layers
        if arrays[name].ndim == 4:
            arrays[name] *= np.sqrt(2 / arrays[name][0].size)
    backbone = Backbone("mobilenet0.25")
    unused = load_torch_backbone(backbone, arrays)
    assert unused == ["module.fc.bias", "module.fc.weight"]
    image = rng.normal(size=(3, 32, 32))
    x, expected = image, []
    strides = {"1.1": 1, "1.2": 2, "1.3": 1, "1.4": 2, "1.5": 1, "2.0": 2, "3.0": 2}
    for s, count in ((1, 6), (2, 6), (3, 2)):
        for b in range(count):
            stem, stride = f"module.stage{s}.{b}", strides.get(f"{s}.{b}", 1)
            if s == 1 and b == 0:
                x = conv_norm_relu(x, arrays, f"{stem}.0", f"{stem}.1", 2, 1)
            else:
                x = conv_norm_relu(x, arrays, f"{stem}.0", f"{stem}.1", stride, len(x))
                x = conv_norm_relu(x, arrays, f"{stem}.3", f"{stem}.4", 1, 1)
        expected.append(x)
    found = backbone(mx.nd.array(image[None]))
    for ours, theirs in zip(found, expected):
        np.testing.assert_allclose(ours.asnumpy()[0], theirs, rtol=1e-3, atol=1e-4 * np.abs(theirs).max())


# (expansion, channels, blocks, stride) of MobileNetV2 (Sandler et al. 2018, table 2).
MOBILENETV2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def mobilenetv2_blocks():
    """(torchvision's prefix, expansion, in, out, stride) of each bottleneck."""
    number, channels = 1, 32
    for expansion, out, count, first in MOBILENETV2:
        for i in range(count):
            yield f"features.{number}.conv", expansion, channels, out, first if i == 0 else 1
            number, channels = number + 1, out


def torch_mobilenetv2(rng):
    """Random arrays under the names and in the shapes of torchvision's MobileNetV2."""
    arrays = {}

    def conv(conv_name, norm_name, out, per_group, kernel):
        arrays[f"{conv_name}.weight"] = rng.normal(size=(out, per_group, kernel, kernel)) / np.sqrt(per_group * kernel)
        for name, low, high in (
            ("weight", 0.5, 1.5),
            ("bias", -0.2, 0.5),
            ("running_mean", -1, 1),
            ("running_var", 0.5, 2),
        ):
            arrays[f"{norm_name}.{name}"] = rng.uniform(low, high, out)

    conv("features.0.0", "features.0.1", 32, 3, 3)
    for prefix, expansion, channels, out, _ in mobilenetv2_blocks():
        wide, depth = channels * expansion, 0
        if expansion > 1:
            conv(f"{prefix}.0.0", f"{prefix}.0.1", wide, channels, 1)
            depth = 1
        conv(f"{prefix}.{depth}.0", f"{prefix}.{depth}.1", wide, 1, 3)
        conv(f"{prefix}.{depth + 1}", f"{prefix}.{depth + 2}", out, wide, 1)
    conv("features.18.0", "features.18.1", 1280, 320, 1)
    arrays |= {"classifier.1.weight": rng.normal(size=(10, 1280)), "classifier.1.bias": rng.normal(size=10)}
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def mobilenetv2_maps(arrays, image):
    """The maps behind every bottleneck and the last convolution, by NumPy from torchvision's arrays."""
    x = np.minimum(conv_norm_relu(image, arrays, "features.0.0", "features.0.1", 2, 1), 6)
    maps = []
    for prefix, expansion, channels, out, stride in mobilenetv2_blocks():
        y, depth = x, 0
        if expansion > 1:
            y = np.minimum(conv_norm_relu(y, arrays, f"{prefix}.0.0", f"{prefix}.0.1", 1, 1), 6)
            depth = 1
        y = np.minimum(conv_norm_relu(y, arrays, f"{prefix}.{depth}.0", f"{prefix}.{depth}.1", stride, len(y)), 6)
        y = conv_norm_relu(y, arrays, f"{prefix}.{depth + 1}", f"{prefix}.{depth + 2}", 1, 1, relu=False)
        x = x + y if stride == 1 and channels == out else y
        maps.append(x)
    maps.append(np.minimum(conv_norm_relu(x, arrays, "features.18.0", "features.18.1", 1, 1), 6))
    return maps


def same_maps(features, arrays, image):
    """Compare all layers of `Features`; returns how many."""
    expected = mobilenetv2_maps(arrays, image)
    x, found = mx.nd.array(image[None]), []
    layers = list(features.layers)
    for layer in layers:
        x = layer(x)
        found.append(x.asnumpy()[0])
    # The stem's and the last convolution's three layers each make one map.
    for ours, theirs in zip([*found[3:-3], found[-1]], expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4 * np.abs(theirs).max())
    return len(expected)


def test_torchvision_mobilenetv2_gives_layer_by_layer_the_maps_computed_by_hand(rng):
    arrays = torch_mobilenetv2(rng)
    features = Features("mobilenetv2_1.0")
    assert load_torch_backbone(features, arrays) == ["classifier.1.bias", "classifier.1.weight"]
    assert same_maps(features, arrays, rng.normal(size=(3, 64, 32))) == 18


def test_the_published_mobilenetv2_gives_layer_by_layer_the_maps_computed_by_hand(facedata, rng):
    path = facedata / "pretrained" / "mobilenet_v2_1.0_imagenet.npz"
    features = Features("mobilenetv2_1.0", pretrained=path)
    with np.load(path) as file:
        assert same_maps(features, dict(file), rng.normal(size=(3, 64, 32))) == 18


def test_the_1280_channels_are_filled_too(rng):
    arrays = torch_mobilenetv2(rng)
    features = Features("mobilenetv2_1.0")
    load_torch_backbone(features, arrays)
    last = features.layers[-3].weight.data().asnumpy()
    np.testing.assert_array_equal(last, arrays["features.18.0.weight"])


# Channels of stages 2, 3, 4 and of conv5, and units a stage, of ShuffleNet V2 0.5 (Ma et al. 2018, table 5).
SHUFFLENET = ((48, 4), (96, 8), (192, 4), 1024)


def shufflenet_units():
    """(torchvision's prefix, channels in, channels out, stride) of each unit."""
    channels = 24
    for stage, (out, count) in enumerate(SHUFFLENET[:3], 2):
        for i in range(count):
            yield f"stage{stage}.{i}", channels, out, 2 if i == 0 else 1
            channels = out


def torch_shufflenet(rng):
    """Random arrays under the names and in the shapes of torchvision's shufflenet_v2_x0_5."""
    arrays = {}

    def conv(conv_name, norm_name, out, per_group, kernel):
        fan_in = per_group * kernel**2
        arrays[f"{conv_name}.weight"] = rng.normal(size=(out, per_group, kernel, kernel)) * np.sqrt(1.5 / fan_in)
        for name, low, high in (("weight", 0.5, 1.5), ("bias", -0.2, 0.5), ("running_mean", -0.5, 0.5)):
            arrays[f"{norm_name}.{name}"] = rng.uniform(low, high, out)
        arrays[f"{norm_name}.running_var"] = rng.uniform(0.5, 2, out)
        arrays[f"{norm_name}.num_batches_tracked"] = np.array(1)

    conv("conv1.0", "conv1.1", 24, 3, 3)
    for prefix, channels, out, stride in shufflenet_units():
        half = out // 2
        if stride == 2:
            conv(f"{prefix}.branch1.0", f"{prefix}.branch1.1", channels, 1, 3)
            conv(f"{prefix}.branch1.2", f"{prefix}.branch1.3", half, channels, 1)
        conv(f"{prefix}.branch2.0", f"{prefix}.branch2.1", half, channels if stride == 2 else half, 1)
        conv(f"{prefix}.branch2.3", f"{prefix}.branch2.4", half, 1, 3)
        conv(f"{prefix}.branch2.5", f"{prefix}.branch2.6", half, half, 1)
    conv("conv5.0", "conv5.1", SHUFFLENET[3], SHUFFLENET[2][0], 1)
    arrays |= {"fc.weight": rng.normal(size=(10, SHUFFLENET[3])), "fc.bias": rng.normal(size=10)}
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def shufflenet_maps(arrays, image):
    """The maps behind every unit and behind conv5, by NumPy from torchvision's arrays."""
    x = conv_norm_relu(image, arrays, "conv1.0", "conv1.1", 2, 1)
    h, w = (-(-n // 2) for n in x.shape[1:])
    x = np.pad(x, ((0, 0), (1, 2), (1, 2)), constant_values=-np.inf)
    x = np.max([x[:, i : i + 2 * h : 2, j : j + 2 * w : 2] for i in range(3) for j in range(3)], axis=0)
    maps = []
    for prefix, _, _, stride in shufflenet_units():
        half = len(x) // 2
        left, y = (x, x) if stride == 2 else (x[:half], x[half:])
        if stride == 2:
            branch = f"{prefix}.branch1"
            left = conv_norm_relu(left, arrays, f"{branch}.0", f"{branch}.1", 2, len(left), relu=False)
            left = conv_norm_relu(left, arrays, f"{branch}.2", f"{branch}.3", 1, 1)
        branch = f"{prefix}.branch2"
        y = conv_norm_relu(y, arrays, f"{branch}.0", f"{branch}.1", 1, 1)
        y = conv_norm_relu(y, arrays, f"{branch}.3", f"{branch}.4", stride, len(y), relu=False)
        y = conv_norm_relu(y, arrays, f"{branch}.5", f"{branch}.6", 1, 1)
        x = np.concatenate([left, y])
        x = x.reshape(2, -1, *x.shape[1:]).swapaxes(0, 1).reshape(x.shape)  # the shuffle, as the paper words it
        maps.append(x)
    return [*maps, conv_norm_relu(x, arrays, "conv5.0", "conv5.1", 1, 1)]


def test_torchvision_shufflenet_gives_unit_by_unit_the_maps_computed_by_hand(rng):
    arrays, image = torch_shufflenet(rng), rng.normal(size=(3, 70, 45))
    features = Features("shufflenetv2_0.5")
    assert load_torch_backbone(features, arrays) == ["fc.bias", "fc.weight"]
    x, found = mx.nd.array(image[None]), []
    for layer in features.layers:
        x = layer(x)
        found.append(x.asnumpy()[0])
    # The four layers of the stem and the three of conv5 each make one map.
    for ours, theirs in zip([*found[4:-3], found[-1]], shufflenet_maps(arrays, image), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4 * np.abs(theirs).max())
        assert theirs.std() > 0.1


def test_every_parameter_of_a_shufflenet_is_the_array_under_its_name(rng):
    arrays = torch_shufflenet(rng)
    backbone = Backbone("shufflenetv2_0.5")
    # What belongs to the classifier is told, whichever way the arrays are named.
    unused = load_torch_backbone(backbone, {f"module.{name}": array for name, array in arrays.items()})
    assert {name.split(".")[1] for name in unused} == {"conv5", "fc"}
    roles = {"gamma": "weight", "beta": "bias"}
    places = {"0.0": "conv1.0", "0.1": "conv1.1"}
    places |= {f"0.{4 + i}": f"stage2.{i}" for i in range(4)}
    places |= {f"1.{i}": f"stage3.{i}" for i in range(8)} | {f"2.{i}": f"stage4.{i}" for i in range(4)}
    compared = set()
    for name, parameter in backbone._collect_params_with_prefix().items():
        _, stage, child, *rest, role = name.split(".")
        theirs = ".".join([places[f"{stage}.{child}"], *rest, roles.get(role, role)])
        np.testing.assert_array_equal(parameter.data().asnumpy(), arrays[theirs], err_msg=name)
        compared.add(theirs)
    assert {n for n in arrays if not n.startswith(("conv5", "fc")) and "tracked" not in n} == compared


def test_the_weights_of_another_width_are_refused(rng):
    with pytest.raises(WeightsError, match=r"stages.0.4.branch1.2.weight: expected shape \(58, 24, 1, 1\), got \(24"):
        load_torch_backbone(Backbone("shufflenetv2_1.0"), torch_shufflenet(rng))


def test_arrays_of_another_backbone_are_refused_naming_the_first_that_differs():
    arrays = torch_mobilenet(np.random.default_rng(0))
    arrays["module.stage2.3.3.weight"] = np.zeros((64, 128, 1, 1), np.float32)
    with pytest.raises(WeightsError, match=r"expected shape \(128, 0, 1, 1\), got \(64, 128, 1, 1\)"):
        load_torch_backbone(Backbone("mobilenet0.25"), arrays)
    with pytest.raises(WeightsError, match="expected at least 27 convolutions"):
        load_torch_backbone(Backbone("mobilenet0.25"), {"a.weight": np.zeros((1, 1, 1, 1), np.float32)})


def test_a_pickled_npz_is_refused(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, a=np.array([{"not": "numbers"}], dtype=object))
    with pytest.raises(WeightsError, match="cannot read"):
        load_torch_backbone(Backbone("mobilenet0.25"), path)


@pytest.mark.parametrize(
    ("model", "file"),
    [
        ("retinaface_mobilenet0.25_widerface", "mobilenet_v1_0.25_imagenet.npz"),
        ("retinaface_mobilenetv2_1.0_widerface", "mobilenet_v2_1.0_imagenet.npz"),
    ],
)
def test_the_published_imagenet_backbones_fit(facedata, model, file):
    net = get_model(model, pretrained_base=facedata / "pretrained" / file)
    net.initialize()
    maps = net.network.backbone(mx.nd.ones((1, 3, 64, 64)))
    assert all(np.isfinite(m.asnumpy()).all() and m.asnumpy().std() > 0 for m in maps)
