"""The C++ example: built where CMake and a compiler are, and compared with the Python runtime."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest

from gluonface.deploy import runtime
from gluonface.geometry import apply_letterbox, letterbox, rotation_matrix_about, warp_image
from gluonface.image import load_image, save_image

CPP = Path(__file__).parents[2] / "gluonface" / "deploy" / "cpp"
COMPILER = next((path for name in ("c++", "g++", "clang++") if (path := shutil.which(name))), None)

pytestmark = pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler")

# What is done to pixels needs no TVM, so it is built with checks of memory and of undefined behaviour.
PIXELS = r"""
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>
#include "image.h"
using namespace gluonface;
int main(int count, char** a) {
    try {
        Image image = read_image(a[2]);
        const std::string what = a[1];
        if (what == "letterbox") {
            const int width = std::atoi(a[4]), height = std::atoi(a[5]);
            image = apply_letterbox(image, Letterbox(image.width, image.height, width, height), width, height);
        } else if (what == "warp" && count == 12) {
            double m[6];
            for (int i = 0; i < 6; ++i) m[i] = std::atof(a[6 + i]);
            image = warp(image, {m[0], m[1], m[2], m[3], m[4], m[5]}, std::atoi(a[4]), std::atoi(a[5]));
        }
        std::FILE* file = std::fopen(a[3], "wb");
        std::fprintf(file, "P6\n%d %d\n255\n", image.width, image.height);
        std::fwrite(image.pixels.data(), 1, image.pixels.size(), file);
        std::fclose(file);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 2;
    }
}
"""


def run(*command, **options) -> subprocess.CompletedProcess:
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=300, **options)


def write_ppm(path: Path, image: np.ndarray) -> Path:
    path.write_bytes(b"P6\n%d %d\n255\n" % image.shape[1::-1] + image.tobytes())
    return path


@pytest.fixture(scope="session")
def pixels(tmp_path_factory):
    """A function that lets the C++ code work on an image: (what, path of an image, numbers) to an array."""
    folder = tmp_path_factory.mktemp("pixels")
    (folder / "pixels.cc").write_text(PIXELS)
    base = [COMPILER, "-std=c++17", "-O1", "-ffp-contract=off", f"-I{CPP}", folder / "pixels.cc", CPP / "image.cc"]
    for extra in (
        ["-fsanitize=address,undefined", "-fno-sanitize-recover", "-DGLUONFACE_JPEG", "-ljpeg"],
        ["-DGLUONFACE_JPEG", "-ljpeg"],
        [],
    ):
        done = run(*base, "-o", folder / "pixels", *extra)
        if done.returncode == 0:
            break
    assert done.returncode == 0, done.stderr

    def work(what, source, *numbers):
        done = run(folder / "pixels", what, source, folder / "out.ppm", *numbers)
        assert done.returncode == 0, done.stderr
        return cv2.imread(str(folder / "out.ppm"))[..., ::-1]

    work.program = folder / "pixels"
    work.reads_jpeg = bool(extra)
    return work


@pytest.fixture(scope="session")
def detect(toys, tmp_path_factory) -> Path:
    """The program, built with CMake."""
    if shutil.which("cmake") is None:
        pytest.skip("needs CMake")
    import sys

    folder = tmp_path_factory.mktemp("build")
    for command in (
        ["cmake", "-S", CPP, "-B", folder, f"-DPYTHON={sys.executable}"],
        ["cmake", "--build", folder, "--parallel", "2"],
    ):
        done = run(*command)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "warning" not in done.stdout + done.stderr
    return folder / "detect"


# ---- pixels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["any", "doubled", "halved", "by three", "same", "tiny"])
def test_a_letterbox_is_bit_for_bit_opencvs(pixels, tmp_path, rng, kind):
    for _ in range(8):
        height, width = (int(n) for n in rng.integers(1, 500, 2))
        canvas = tuple(int(n) for n in rng.integers(1, 300, 2))
        if kind == "doubled":
            canvas = (2 * height, 2 * width)
        elif kind in ("halved", "by three"):
            factor = 2 if kind == "halved" else 3
            height, width = factor * canvas[0], factor * canvas[1]
        elif kind == "same":
            canvas = (height, width)
        elif kind == "tiny":
            height, width = (int(n) for n in rng.integers(1, 4, 2))
        image = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
        found = pixels("letterbox", write_ppm(tmp_path / "a.ppm", image), canvas[1], canvas[0])
        expected = apply_letterbox(image, letterbox(image.shape[:2], canvas))
        # On other processors OpenCV may have code of their makers, which rounds in its own way.
        limit = 0 if runtime.architecture() == "x86_64" else 1
        assert np.abs(found.astype(int) - expected).max() <= limit, (image.shape, canvas)


@pytest.mark.parametrize("kind", ["smaller", "larger", "outside"])
def test_a_warp_is_opencvs_to_a_grey_level(pixels, tmp_path, rng, kind):
    for _ in range(8):
        height, width = (int(n) for n in rng.integers(40, 500, 2))
        # Some versions of OpenCV round places to 1/32 of a pixel, some do not; a smooth photo shows little of that.
        image = cv2.GaussianBlur(rng.integers(0, 256, (height, width, 3)).astype(np.uint8), (0, 0), 3)
        scale = float(np.exp(rng.uniform(-2, 0) if kind == "smaller" else rng.uniform(0, 1.5)))
        matrix = rotation_matrix_about((width / 2, height / 2), float(rng.uniform(-180, 180)), scale)
        matrix[:, 2] += np.array([32, 32]) - [width / 2, height / 2]
        matrix[:, 2] += rng.uniform(-20, 20, 2) * (20 if kind == "outside" else 1)
        numbers = [repr(float(value)) for value in matrix.ravel()]
        found = pixels("warp", write_ppm(tmp_path / "a.ppm", image), 64, 64, *numbers)
        difference = np.abs(found.astype(int) - warp_image(image, matrix, (64, 64)))
        assert difference.max() <= 2 and difference.mean() < 0.1


def test_a_jpeg_is_read_upright_whatever_its_orientation(pixels, tmp_path, photo):
    if not pixels.reads_jpeg:
        pytest.skip("needs libjpeg")
    from PIL import Image

    picture = Image.fromarray(cv2.GaussianBlur(photo(90, 130), (0, 0), 2))
    for orientation in range(9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        picture.save(tmp_path / "a.jpg", exif=exif, quality=95)
        expected = load_image(tmp_path / "a.jpg")
        found = pixels("read", tmp_path / "a.jpg")
        assert found.shape == expected.shape
        # Two versions of libjpeg may round differently.
        assert np.abs(found.astype(int) - expected).max() <= 4


def test_damaged_photos_are_errors_and_never_a_crash(pixels, tmp_path, photo, rng):
    """With the address sanitizer, where the compiler has it."""
    good = [write_ppm(tmp_path / "a.ppm", photo(20, 30)).read_bytes()]
    if pixels.reads_jpeg:
        from PIL import Image

        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(photo(40, 50)).save(tmp_path / "a.jpg", exif=exif)
        good.append((tmp_path / "a.jpg").read_bytes())
    cases = [
        b"",
        b"P6",
        b"P6\n",
        b"P6 -1 5 255\n",
        b"P6 99999 99999 255\n",
        b"P6 999999999999 1 255\n",
        b"P6 1 1 65535\n1",
    ]
    cases += [
        b"P6 #",
        b"P6 1 1 255",
        b"P5 1 1 255\n1",
        b"\xff\xd8",
        b"\xff\xd8\xff\xe1\0\x10Exif\0\0II*\0\xff\xff\xff\xff",
    ]
    for data in good:
        cases += [data[:cut] for cut in rng.integers(2, len(data), 15)]
        for _ in range(40):
            changed = bytearray(data)
            for at in rng.integers(2, min(len(data), 200), 3):
                changed[at] = rng.integers(256)
            cases.append(bytes(changed))
    refused = 0
    for data in cases:
        (tmp_path / "bad").write_bytes(data)
        done = run(pixels.program, "read", tmp_path / "bad", tmp_path / "out.ppm")
        assert done.returncode in (0, 2), (data[:60], done.stderr)
        refused += done.returncode == 2
    assert refused > len(cases) / 3


# ---- the program -----------------------------------------------------------------------------------------------------


def lines(detect: Path, *arguments) -> list[dict]:
    done = run(detect, *arguments)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def assert_same_faces(found: dict, expected: dict, tolerance: float) -> None:
    """Two lines of ``detect --json`` say the same."""
    assert {key: found[key] for key in found if key != "faces"} == {k: expected[k] for k in expected if k != "faces"}
    assert len(found["faces"]) == len(expected["faces"]) > 0
    for a, b in zip(found["faces"], expected["faces"]):
        assert list(a) == list(b)
        assert a["score"] == pytest.approx(b["score"], abs=1e-5)
        for key in set(a) - {"score"}:
            assert np.allclose(a[key], b[key], atol=tolerance), key


def test_the_program_prints_what_the_python_runtime_finds(detect, toys, photo, tmp_path):
    files = []
    for i, size in enumerate(((300, 420), (96, 128), (50, 40), (500, 333), (480, 640))):
        files.append(str(write_ppm(tmp_path / f"{i}.ppm", photo(*size))))
    analyzer = runtime.load(toys / "detector", landmarks=toys / "landmarks")
    found = lines(detect, toys / "detector", "--landmarks", toys / "landmarks", *files)
    assert len(found) == len(files)
    for file, line in zip(files, found):
        image = cv2.imread(file)[..., ::-1]
        assert_same_faces(line, analyzer(np.ascontiguousarray(image)).to_dict(file, analyzer.detector_name), 0.1)


def test_the_detector_alone_and_options(detect, toys, photo, tmp_path):
    image = photo()
    file = write_ppm(tmp_path / "a.ppm", image)
    (line,) = lines(detect, toys / "detector", file)
    expected = runtime.load(toys / "detector")(image).to_dict(str(file), "toy_detection")
    assert_same_faces(line, expected, 1e-3)
    assert "landmarks" not in line["faces"][0]
    (line,) = lines(detect, toys / "detector", "--score", "0.8", "--threads", "2", file)
    assert_same_faces(line, {**expected, "faces": expected["faces"][:1]}, 1e-3)
    (line,) = lines(detect, toys / "detector", "--score", "0.9", file)
    assert line["faces"] == []


def test_the_pose_is_printed_where_the_net_gives_it(toy, detect, photo, tmp_path):
    toy.write(tmp_path / "posed", "detection", [(1, (96, 128))], pose=True)
    image = photo(97, 128)
    file = write_ppm(tmp_path / "a.ppm", image)
    (line,) = lines(detect, tmp_path / "posed", file)
    expected = runtime.load(tmp_path / "posed")(image).to_dict(str(file), "toy_detection")
    assert len(expected["faces"]) == 2
    for ours, theirs in zip(line["faces"], expected["faces"], strict=True):
        assert set(ours) == set(theirs) and ours["pose"] == theirs["pose"]


def test_the_mesh_is_printed_where_the_net_gives_it(toy, detect, photo, tmp_path):
    names = ("scores", "bboxes", "landmarks", "mesh")
    outputs = tuple(runtime.Output(name, "(B, n)", "a toy's") for name in names)
    toy.write(tmp_path / "meshes", "detection", [(1, (96, 128))], mesh=True, outputs=outputs)
    image = photo(300, 420)
    file = write_ppm(tmp_path / "a.ppm", image)
    (line,) = lines(detect, tmp_path / "meshes", file)
    expected = runtime.load(tmp_path / "meshes")(image).to_dict(str(file), "toy_detection")
    assert np.shape([face["mesh"] for face in expected["faces"]]) == (2, 2, 3)
    assert_same_faces(line, expected, 1e-3)


def test_dense_points_of_a_detector_are_printed_with_the_five(small_kpnet, detect, photo, tmp_path):
    from gluonface.deploy.build import compile_model

    size, image = (96, 128), photo(97, 128)
    net = small_kpnet(size, num_points=19)
    compile_model(net, tmp_path / "net", sizes=[size], records=None)
    file = write_ppm(tmp_path / "a.ppm", image)
    (line,) = lines(detect, tmp_path / "net", "--score", "0.1", file)
    expected = runtime.load(tmp_path / "net", score_thresh=0.1)(image).to_dict(str(file), net.facts.name)
    assert len(expected["faces"]) > 2
    assert_same_faces(line, expected, 1e-3)
    face = line["faces"][0]
    assert len(face["landmarks5"]) == 5 and len(face["landmarks"]) == 19


@pytest.mark.parametrize(("score", "batches"), [(0.02, (4, 2)), (0.6, (1, 8)), (1.0, (1,))])
def test_points_of_a_second_look_at_the_faces_are_printed(small_maskface, detect, photo, tmp_path, score, batches):
    from gluonface.deploy.build import compile_model

    net = small_maskface(context=False)
    compile_model(net, tmp_path / "net", sizes=[(64, 96)], face_batches=batches, records=None)
    image = photo(97, 128)
    file = write_ppm(tmp_path / "a.ppm", image)
    (line,) = lines(detect, tmp_path / "net", "--score", str(score), file)
    expected = runtime.load(tmp_path / "net", score_thresh=score)(image).to_dict(str(file), net.facts.name)
    if score == 1.0:
        assert line["faces"] == expected["faces"] == []
        return
    assert len(expected["faces"]) > 2
    assert_same_faces(line, expected, 1e-2)
    assert all(len(face["landmarks5"]) == 5 and len(face["landmarks"]) == 19 for face in line["faces"])


@pytest.fixture(scope="module")
def maskface(detect, small_maskface, tmp_path_factory) -> Path:
    """The artefact of a MaskFace that takes two canvases at a time, where there is a program to run it."""
    from gluonface.deploy.build import compile_model

    out = tmp_path_factory.mktemp("maskface") / "net"
    net = small_maskface(context=False)
    return compile_model(net, out, sizes=[(64, 96)], batches=(2,), face_batches=(2, 4), records=None)


def test_points_of_a_second_look_are_printed_where_a_black_canvas_fills_up_the_batch(maskface, detect, photo, tmp_path):
    analyzer, image = runtime.load(maskface, score_thresh=0.02), photo(97, 128)
    # Black is full of faces for this net.
    assert (analyzer.module.run("b2_64x96", np.zeros((2, 64, 96, 3), np.uint8))[0] >= 0.02).sum() > 2
    file = write_ppm(tmp_path / "a.ppm", image)
    (line,) = lines(detect, maskface, "--score", "0.02", file)
    expected = analyzer(image).to_dict(str(file), analyzer.detector_name)
    assert len(expected["faces"]) > 2
    assert_same_faces(line, expected, 1e-2)


def test_faces_on_black_canvases_that_fill_up_a_batch_are_not_looked_at(toy, detect, tmp_path):
    """Of a toy that finds a face on every canvas, and whose points say how many faces were looked at together."""
    import tvm
    from tvm import relax

    canvases, faces = runtime.Bucket.of(2, (64, 96)), runtime.FaceFunctions((1, 2), levels=1, num_points=5)
    builder = relax.BlockBuilder()

    def add(name, inputs, *results):
        with builder.function(name, inputs):
            with builder.dataflow():
                result = builder.emit_output(relax.Tuple([relax.const(value.astype("float32")) for value in results]))
            builder.emit_func_output(result)

    canvas = relax.Var("canvas", relax.TensorType(canvases.shape, "uint8"))
    box = np.array([10, 20, 30, 40])
    add(canvases.function, [canvas], np.full((2, 1), 0.75), np.tile(box, (2, 1, 1)), np.zeros((2, 1, 1, 1)))
    for batch in faces.batches:
        rois = relax.Var("rois", relax.TensorType((batch, 5), "float32"))
        level = relax.Var("level", relax.TensorType((2, 1, 1, 1), "float32"))
        add(faces.function(canvases, batch), [rois, level], np.full((batch, 5, 2), batch))
    tvm.compile(builder.get(), target=tvm.target.Target(toy.native())).export_library(str(tmp_path / "toy.so"))
    manifest = toy.manifest("detection", [(2, canvases.size_hw)], faces=faces)
    artefact = toy.artifact.write_artifact(tmp_path / "toy", tmp_path / "toy.so", manifest)
    (line,) = lines(detect, artefact, write_ppm(tmp_path / "a.ppm", np.zeros((64, 96, 3), np.uint8)))
    (face,) = line["faces"]
    assert face["box"] == box.tolist() and face["landmarks5"] == [[1, 1]] * 5


def test_a_net_with_large_batches_only_takes_few_and_many_faces(toy, detect, toys, photo, tmp_path):
    for batch in (2, 5):
        toy.write(tmp_path / f"{batch}", "landmarks", [(batch, (64, 64))])
        image = photo()
        file = write_ppm(tmp_path / "a.ppm", image)
        (line,) = lines(detect, toys / "detector", "--landmarks", tmp_path / f"{batch}", file)
        analyzer = runtime.load(toys / "detector", landmarks=tmp_path / f"{batch}")
        assert_same_faces(line, analyzer(image).to_dict(str(file), "toy_detection"), 0.1)


def test_a_jpeg_and_a_name_with_quotes(detect, toys, photo, tmp_path):
    file = tmp_path / 'a "photo" \\ of\tfaces é.jpg'
    save_image(file, cv2.GaussianBlur(photo(), (0, 0), 1))
    done = run(detect, toys / "detector", file)
    if "without libjpeg" in done.stderr:
        pytest.skip("needs libjpeg")
    (line,) = lines(detect, toys / "detector", file)
    assert_same_faces(line, runtime.load(toys / "detector")(file).to_dict(str(file), "toy_detection"), 1.0)


def test_numbers_are_the_shortest_that_are_the_same_float32(detect, toys, photo, tmp_path):
    round_ones = np.zeros((480, 640, 3), np.uint8)
    round_ones[100:200, 0:160, 1] = 255
    for image in (photo(333, 471), round_ones):
        file = write_ppm(tmp_path / "a.ppm", image)
        text = run(detect, toys / "detector", file).stdout
        assert text == json.dumps(runtime.load(toys / "detector")(image).to_dict(str(file), "toy_detection")) + "\n"
    assert "[0.0, 100.0, 160.0, 200.0]" in text


def test_one_bad_photo_among_good_ones_is_told_and_skipped(detect, toys, photo, tmp_path):
    good = write_ppm(tmp_path / "a.ppm", photo())
    (tmp_path / "bad.ppm").write_bytes(b"P6 5 5 255\n123")
    done = run(detect, toys / "detector", tmp_path / "bad.ppm", tmp_path / "none.ppm", good, tmp_path)
    assert done.returncode == 2
    assert len(done.stdout.splitlines()) == 1
    assert "bad.ppm: is truncated" in done.stderr and "none.ppm: cannot be read" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "usage: detect ARTEFACT"),
        (["DETECTOR"], "usage: detect ARTEFACT"),
        (["DETECTOR", "--score"], "--score: expected a value"),
        (["DETECTOR", "--score", "much", "x"], "--score: expected a number"),
        (["DETECTOR", "--threads", "0", "x"], "usage"),
        (["DETECTOR", "--colour", "x"], "no option --colour"),
        (["/none", "x"], "expected an artefact"),
        (["LANDMARKS", "x"], "expected the artefact of a detector, got toy_landmarks"),
        (["DETECTOR", "--landmarks", "DETECTOR", "x"], "expected the artefact of a landmark net, got toy_detection"),
    ],
)
def test_wrong_arguments_are_told_with_status_2(detect, toys, arguments, said):
    places = {"DETECTOR": toys / "detector", "LANDMARKS": toys / "landmarks"}
    done = run(detect, *(places.get(word, word) for word in arguments))
    assert done.returncode == 2 and said in done.stderr and done.stdout == ""


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("format 1", "format 2", "format: expected 1"),
        ("format 1\n", "", "expected format first"),
        ("task detection", "task drawing", "task: expected detection or landmarks"),
        ("architecture ", "architecture other_", "compiled for other_"),
        ("architecture", "features no_such_flag\narchitecture", "a processor with no_such_flag"),
        ("library model.so", "library ../model.so", "the name of a file in the artefact"),
        ("library model.so", "library none.so", "none.so: cannot be read"),
        ("library model.so ", "library model.so 1", "is damaged or another one"),
        ("bucket b1_96x128 1", "bucket b1_96x128 -1", "bucket: expected a whole number"),
        ("bucket b1_96x128 1", "bucket b1_96x128 99999999999999999999", "bucket: expected a whole number"),
        ("bucket b1_96x128 1 96", "bucket b1_96x128 1 97", "b1_96x128 failed"),
        ("bucket b1_96x128 1 96", "bucket b1_96x128 4096 16384 16384 #", "no more values"),
        ("score_thresh 0.5", "score_thresh nan", "score_thresh: expected a number"),
        ("score_thresh 0.5", "score_thresh 0.5\nscore_thresh 0.5", "the key once"),
        ("size 640", "", "the manifest is damaged"),
        ("model toy_detection", "model toy_detection\nsecret 1", "expected a known key"),
        ("model toy_detection", "model toy_detection\nfaces 5 68", "faces: expected another value"),
        ("model toy_detection", "model toy_detection\nfaces 17 5 1", "faces: expected a whole number from 1 to 16"),
        ("model toy_detection", "model toy_detection\nfaces 5 4097 1", "from 1 to 4096, got 4097"),
        ("model toy_detection", "model toy_detection\nfaces 5 5 1 4097", "from 1 to 4096, got 4097"),
        ("model toy_detection", "model toy_detection\nfaces 5 5 8 1", "expected batches of faces that grow"),
        ("model toy_detection", "model toy_detection\nfaces 5 68 1", "expected faces of 5 points or as many as points"),
        ("model toy_detection", "model toy_detection\nfaces 5 5 1", "b1_96x128_f1: the library has no such function"),
        # Which no photo would ask for.
        ("bucket b3_96x128 3", "bucket b3_96x129 3", "b3_96x129: the library has no such function"),
        ("score_thresh 0.5", "score_thresh 0.5\npoints 19", "expected five times five, with points"),
        ("score_thresh 0.5", "score_thresh 0.5\npoints 19" + "\nfive 19" * 5, "expected indices of points in five"),
    ],
)
def test_an_artefact_that_is_wrong_is_told_with_status_2(detect, toys, tmp_path, photo, old, new, said):
    folder = tmp_path / "detector"
    shutil.copytree(toys / "detector", folder)
    text = (folder / "manifest.txt").read_text()
    assert old in text
    text = text.replace(old, new, 1)
    if "97" in new:  # the other shapes would be taken otherwise
        text = "".join(line for line in text.splitlines(True) if not line.startswith("bucket") or "97" in line)
    (folder / "manifest.txt").write_text(text)
    done = run(detect, folder, write_ppm(tmp_path / "a.ppm", photo(97, 128)))
    assert done.returncode == 2 and said in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("faces", "said"),
    [
        ("5 20 2 4", "expected faces of 5 points or as many as points says, got 20"),
        ("5 999999999 2 4", "faces: expected a whole number from 1 to 4096, got 999999999"),
        ("5 5 2 4", "expected points (R, K, 2) from the library, of another shape"),
        ("5 19 2 4 8", "b2_64x96_f8: the library has no such function"),
        ("6 19 2 4", "expected scores, boxes and 6 levels"),
        ("17 19 2 4", "faces: expected a whole number from 1 to 16, got 17"),
    ],
)
def test_wrong_functions_for_faces_are_told_with_status_2(maskface, detect, tmp_path, photo, faces, said):
    folder = shutil.copytree(maskface, tmp_path / "net")
    text = (folder / "manifest.txt").read_text()
    assert "faces 5 19 2 4\n" in text
    (folder / "manifest.txt").write_text(text.replace("faces 5 19 2 4\n", f"faces {faces}\n"))
    file = write_ppm(tmp_path / "a.ppm", photo(97, 128))
    done = run(detect, folder, "--score", "0.02", file)
    assert done.returncode == 2 and said in done.stderr and done.stdout == "", done.stderr
    # All but the shape of points is told where no face is looked at: none scores as much.
    assert lines(detect, maskface, "--score", "1", file)[0]["faces"] == []
    assert run(detect, folder, "--score", "1", file).returncode == (0 if faces == "5 5 2 4" else 2)


def test_a_damaged_library_is_told_before_it_is_loaded(detect, toys, tmp_path, photo):
    folder = tmp_path / "detector"
    shutil.copytree(toys / "detector", folder)
    library = bytearray((folder / "model.so").read_bytes())
    file = write_ppm(tmp_path / "a.ppm", photo())
    for damaged in (bytes(library[:-1]), bytes([*library[:-1], library[-1] ^ 1]), b""):
        (folder / "model.so").write_bytes(damaged)
        done = run(detect, folder, file)
        assert done.returncode == 2 and "is damaged or another one" in done.stderr


def test_an_installed_program_finds_the_libraries_beside_it(detect, toys, photo, tmp_path):
    done = run("cmake", "--install", detect.parent, "--prefix", tmp_path / "app")
    assert done.returncode == 0, done.stderr
    file = write_ppm(tmp_path / "a.ppm", photo())
    program = tmp_path / "app" / "detect"
    assert lines(program, toys / "detector", file) == lines(detect, toys / "detector", file)
    where = run("ldd", program, env={**os.environ, "LC_ALL": "C"}).stdout
    assert where.count(str(tmp_path / "app" / "lib")) == 3
