"""AArch64 without a board: cross-compiled, run under user emulation, compared with this machine (`make test-arm`)."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest

from gluonface.deploy import runtime
from gluonface.errors import DeployError
from gluonface.geometry import apply_letterbox, letterbox

ROOT = Path(__file__).parents[2]
CPP = ROOT / "gluonface" / "deploy" / "cpp"
COMPILER = "aarch64-linux-gnu-g++"
EMULATOR = ("qemu-aarch64-static", "-L", "/usr/aarch64-linux-gnu")
LIBRARIES = Path(os.environ.get("GLUONFACE_ARM_LIBRARIES", ROOT / "out" / "arm" / "lib"))


def what_is_missing() -> str:
    missing = [tool for tool in (COMPILER, EMULATOR[0], "cmake") if shutil.which(tool) is None]
    if not (LIBRARIES / "libtvm_runtime.so").is_file():
        missing.append(f"the AArch64 runtime libraries of TVM in {LIBRARIES}")
    return ", ".join(missing)


MISSING = what_is_missing()
# Where they were promised (make test-arm), their absence is a failure.
pytestmark = pytest.mark.skipif(
    bool(MISSING) and not os.environ.get("GLUONFACE_TEST_ARM"), reason=f"needs {MISSING}: make test-arm gets them"
)


def run(*command) -> subprocess.CompletedProcess:
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    assert not MISSING
    return tmp_path_factory.mktemp("arm")


@pytest.fixture(scope="module")
def detect(folder) -> Path:
    """The C++ example for AArch64."""
    import tvm_ffi.libinfo

    configure = ["cmake", "-S", CPP, "-B", folder / "build", f"-DCMAKE_CXX_COMPILER={COMPILER}", "-DWITH_JPEG=OFF"]
    configure += ["-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64", f"-DTVM_LIBRARIES={LIBRARIES}"]
    configure += [f"-DTVM_FFI_INCLUDE={tvm_ffi.libinfo.find_include_path()}"]
    for command in (configure, ["cmake", "--build", folder / "build", "--parallel", "2"]):
        done = run(*command)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder / "build" / "detect"


@pytest.fixture(scope="module")
def artefacts(toy, folder) -> Path:
    """Toys for AArch64."""
    pytest.importorskip("tvm")
    libraries = sorted(LIBRARIES.glob("*.so"))
    options = {"target": toy.ARM, "compiler": COMPILER, "runtime_libs": libraries}
    toy.write(folder / "detector", "detection", [(1, (96, 128)), (1, (480, 640))], **options)
    toy.write(folder / "landmarks", "landmarks", [(2, (64, 64))], **options)
    return folder


def write_ppm(path: Path, image: np.ndarray) -> Path:
    path.write_bytes(b"P6\n%d %d\n255\n" % image.shape[1::-1] + image.tobytes())
    return path


def test_the_program_and_the_library_are_for_aarch64(detect, artefacts):
    for path in (detect, artefacts / "detector" / "model.so"):
        header = path.read_bytes()[:20]
        assert header[:5] == b"\x7fELF\x02" and int.from_bytes(header[18:20], "little") == 183  # EM_AARCH64


def test_aarch64_finds_what_this_machine_finds(detect, artefacts, toys, photo, tmp_path):
    images = [photo(*size) for size in ((300, 420), (96, 128), (481, 333), (960, 1280))]
    files = [str(write_ppm(tmp_path / f"{i}.ppm", image)) for i, image in enumerate(images)]
    done = run(*EMULATOR, detect, artefacts / "detector", "--landmarks", artefacts / "landmarks", *files)
    assert done.returncode == 0, done.stderr
    analyzer = runtime.load(toys / "detector", landmarks=toys / "landmarks")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == len(images)
    for line, image in zip(lines, images):
        expected = analyzer(image).to_dict(line["image"], "toy_detection")
        assert (line["width"], line["height"], line["model"]) == (image.shape[1], image.shape[0], expected["model"])
        assert len(line["faces"]) == len(expected["faces"]) == 2
        for a, b in zip(line["faces"], expected["faces"]):
            assert list(a) == list(b) == ["box", "score", "landmarks5", "landmarks"]
            for key in a:
                assert np.allclose(a[key], b[key], atol=1e-5 if key == "score" else 0.1), key


def test_the_trained_nets_find_on_aarch64_what_they_find_here(detect, folder, tmp_path):
    from gluonface.deploy.build import compile_model

    astronaut = pytest.importorskip("skimage.data", reason="needs gluonface[demo]").astronaut()
    nets = {"detector": "retinaface_mobilenet0.25_mask", "points": "heatmap_mobilenetv2_0.25_sssd_fc26"}
    for target in ("cortex-a72", "native"):
        for name, net in nets.items():
            sizes = [(256, 256)] if name == "detector" else None
            compile_model(net, tmp_path / target / name, target=target, sizes=sizes)
    file = write_ppm(tmp_path / "astronaut.ppm", astronaut)
    arm = tmp_path / "cortex-a72"
    environment = [*EMULATOR, "-E", f"LD_LIBRARY_PATH={LIBRARIES}"]
    done = run(*environment, detect, arm / "detector", "--landmarks", arm / "points", "--score", "0.1", file)
    assert done.returncode == 0, done.stderr
    (line,) = [json.loads(line) for line in done.stdout.splitlines()]
    here = tmp_path / "native"
    expected = runtime.load(here / "detector", landmarks=here / "points", score_thresh=0.1)(astronaut).to_dict()
    assert len(line["faces"]) == len(expected["faces"]) >= 1
    for a, b in zip(line["faces"], expected["faces"]):
        assert abs(a["score"] - b["score"]) < 1e-3
        for key in ("box", "landmarks5", "landmarks"):
            assert np.abs(np.subtract(a[key], b[key])).max() < 0.5, key


def test_threads_on_aarch64(detect, artefacts, photo, tmp_path):
    file = write_ppm(tmp_path / "a.ppm", photo(480, 640))
    one, three = (run(*EMULATOR, detect, artefacts / "detector", "--threads", n, file) for n in (1, 3))
    assert one.returncode == three.returncode == 0
    assert one.stdout == three.stdout != ""


def test_pixels_are_resized_to_the_same_bytes_on_aarch64(folder, rng, tmp_path):
    source = tmp_path / "letterbox.cc"
    source.write_text(
        '#include <cstdio>\n#include <cstdlib>\n#include "image.h"\nusing namespace gluonface;\n'
        "int main(int, char** a) {\n"
        "    const Image image = read_image(a[1]);\n"
        "    const int width = std::atoi(a[2]), height = std::atoi(a[3]);\n"
        "    const Letterbox box(image.width, image.height, width, height);\n"
        "    const Image out = apply_letterbox(image, box, width, height);\n"
        "    std::fwrite(out.pixels.data(), 1, out.pixels.size(), stdout);\n"
        "}\n"
    )
    # With the options of CMakeLists.txt.
    done = run(
        COMPILER, "-std=c++17", "-O3", "-ffp-contract=off", f"-I{CPP}", source, CPP / "image.cc", "-o", tmp_path / "x"
    )
    assert done.returncode == 0, done.stderr
    for _ in range(6):
        height, width, canvas_height, canvas_width = (int(n) for n in rng.integers(1, 400, 4))
        image = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
        command = [*EMULATOR, tmp_path / "x", write_ppm(tmp_path / "a.ppm", image), canvas_width, canvas_height]
        done = subprocess.run([str(c) for c in command], capture_output=True, check=True, timeout=60)
        found = np.frombuffer(done.stdout, np.uint8).reshape(canvas_height, canvas_width, 3)
        expected = apply_letterbox(image, letterbox((height, width), (canvas_height, canvas_width)))
        assert np.abs(found.astype(int) - expected).max() <= (0 if runtime.architecture() == "x86_64" else 1), (
            cv2.__version__
        )


def test_an_artefact_of_the_other_architecture_is_refused_on_both(detect, artefacts, toys, photo, tmp_path):
    if runtime.architecture() == "aarch64":
        pytest.skip("this machine is AArch64 itself")
    file = write_ppm(tmp_path / "a.ppm", photo())
    done = run(*EMULATOR, detect, toys / "detector", file)
    assert done.returncode == 2 and "compiled for x86_64, this program is for aarch64" in done.stderr
    with pytest.raises(DeployError, match="compiled for aarch64"):
        runtime.load(artefacts / "detector")
