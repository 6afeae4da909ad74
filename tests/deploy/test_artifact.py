"""Artefacts are written whole and read with suspicion. No TVM: nothing here is loaded."""

import copy
import dataclasses
import json
import os
import re
import shutil
import stat
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from gluonface.deploy import artifact, runtime
from gluonface.deploy.runtime import libraries, machine, reader
from gluonface.errors import DeployError, MissingDependencyError

pytest.importorskip(
    "tvm_ffi", reason="an artefact names the tvm_ffi it was compiled with: pip install gluonface[runtime]"
)

BUCKETS = [(1, (96, 128)), (4, (480, 640))]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("GLUONFACE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def library(tmp_path, rng) -> Path:
    path = tmp_path / "compiled.so"
    path.write_bytes(rng.bytes(5000))
    return path


@pytest.fixture
def folder(toy, tmp_path, library) -> Path:
    return artifact.write_artifact(tmp_path / "folder", library, toy.manifest("detection", BUCKETS))


def write(toy, out, library, **others):
    as_zip = others.pop("as_zip", False)
    libs = others.pop("runtime_libs", None)
    return artifact.write_artifact(out, library, toy.manifest("detection", BUCKETS, **others), libs, as_zip)


def edit(folder: Path, change) -> None:
    """Change the manifest of a folder: ``change`` gets its values."""
    path = folder / "manifest.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


# ---- writing and reading ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["detection", "landmarks"])
def test_a_folder_gives_back_the_manifest_and_the_files_it_was_made_of(toy, tmp_path, library, task):
    buckets = BUCKETS if task == "detection" else [(1, (toy.CROP, toy.CROP))]
    manifest = toy.manifest(task, buckets)
    read = runtime.open_artifact(artifact.write_artifact(tmp_path / "a", library, manifest))
    assert dataclasses.replace(read.manifest, files={}) == manifest
    assert set(read.manifest.files) == {"model.so", "manifest.txt"}
    assert read.library.read_bytes() == library.read_bytes()
    assert read.runtime_libraries is None
    assert read.manifest.files["model.so"].sha256 == runtime.sha256_of(library)


def test_a_zip_gives_the_same_as_a_folder(toy, tmp_path, library, folder, cache):
    packed = write(toy, tmp_path / "a.zip", library, as_zip=True)
    read = runtime.open_artifact(packed)
    assert read.manifest == runtime.open_artifact(folder).manifest
    assert read.library.read_bytes() == library.read_bytes()
    assert read.folder.is_relative_to(cache)
    assert stat.S_IMODE(read.folder.parent.stat().st_mode) == 0o700


def test_the_same_contents_make_the_same_zip(toy, tmp_path, library):
    zips = [write(toy, tmp_path / f"{i}.zip", library, as_zip=True).read_bytes() for i in range(2)]
    assert zips[0] == zips[1]


def test_a_zip_is_unpacked_once_and_again_when_what_was_unpacked_is_damaged(toy, tmp_path, library):
    packed = write(toy, tmp_path / "a.zip", library, as_zip=True)
    first = runtime.open_artifact(packed).library
    before = first.stat().st_ino
    assert runtime.open_artifact(packed).library.stat().st_ino == before
    content = bytearray(first.read_bytes())
    content[100] ^= 1
    first.write_bytes(content)
    assert runtime.open_artifact(packed).library.read_bytes() == library.read_bytes()


def test_the_cache_goes_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.delenv("GLUONFACE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert runtime.cache_folder() == tmp_path / "gluonface"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert runtime.cache_folder() == Path.home() / ".cache" / "gluonface"


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="rights of files are not POSIX's here")
def test_a_cache_that_others_can_write_to_is_refused(toy, tmp_path, library, cache):
    (cache / "artifacts").mkdir(parents=True)
    (cache / "artifacts").chmod(0o777)
    with pytest.raises(DeployError, match="you alone can write to"):
        runtime.open_artifact(write(toy, tmp_path / "a.zip", library, as_zip=True))


def test_runtime_libraries_go_along_under_lib(toy, tmp_path, library):
    other = tmp_path / "libtvm_runtime.so"
    other.write_bytes(b"a library")
    out = write(toy, tmp_path / "a", library, runtime_libs=[other])
    assert runtime.open_artifact(out).runtime_libraries == out / "lib"
    assert (out / "lib" / "libtvm_runtime.so").read_bytes() == b"a library"
    renamed = write(toy, tmp_path / "b", library, runtime_libs={"LICENSE.tvm": other})
    assert (renamed / "lib" / "LICENSE.tvm").exists()


def test_an_artefact_is_replaced_by_a_new_one_and_nothing_else_is(toy, tmp_path, library, folder):
    library.write_bytes(b"another")
    write(toy, folder, library)
    assert runtime.open_artifact(folder).library.read_bytes() == b"another"
    precious = tmp_path / "photos"
    precious.mkdir()
    (precious / "photo.jpg").write_bytes(b"dear")
    (tmp_path / "file").write_bytes(b"dear")
    for out in (precious, tmp_path / "file"):
        for as_zip in (False, True):
            with pytest.raises(DeployError, match="something else"):
                write(toy, out, library, as_zip=as_zip)
    assert (precious / "photo.jpg").read_bytes() == (tmp_path / "file").read_bytes() == b"dear"


@pytest.mark.parametrize("as_zip", [False, True])
def test_a_failure_half_way_leaves_what_was_there_and_no_litter(toy, tmp_path, library, monkeypatch, as_zip):
    out = write(toy, tmp_path / "place" / "a", library, as_zip=as_zip)
    before = runtime.open_artifact(out).manifest
    library.write_bytes(b"another")

    def full(*args):
        raise OSError("no space left on device")

    monkeypatch.setattr(artifact, "_pack" if as_zip else "_put_in_place", full)
    with pytest.raises(DeployError, match="no space left"):
        write(toy, out, library, as_zip=as_zip)
    assert runtime.open_artifact(out).manifest == before
    assert list(out.parent.iterdir()) == [out]


def test_what_the_reader_would_refuse_is_not_written(toy, tmp_path, library):
    manifest = toy.manifest("detection", BUCKETS)
    wrong = dataclasses.replace(manifest, buckets=(runtime.Bucket("main", 1, (96, 128)),))
    with pytest.raises(DeployError, match="b1_96x128"):
        artifact.write_artifact(tmp_path / "a", library, wrong)
    with pytest.raises(DeployError, match="expected a file"):
        write(toy, tmp_path / "a", tmp_path / "none.so")
    assert not (tmp_path / "a").exists()


def test_the_lines_for_cpp_say_what_the_manifest_says(toy, tmp_path, library):
    out = artifact.write_artifact(tmp_path / "a", library, toy.manifest("landmarks", [(2, (toy.CROP, toy.CROP))]))
    lines = (out / "manifest.txt").read_text().splitlines()
    values = dict(line.split(" ", 1) for line in lines)
    assert lines[0] == "format 1"
    assert values["bucket"] == f"b2_{toy.CROP}x{toy.CROP} 2 {toy.CROP} {toy.CROP}"
    assert values["library"] == f"model.so 5000 {runtime.sha256_of(library)}"
    template = [float(value) for value in values["template"].split()]
    assert np.allclose(np.reshape(template, (5, 2)), toy.HEATMAP_TEMPLATE)
    assert sum(line.startswith("five ") for line in lines) == 5


# ---- damage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.so", "manifest.txt"])
def test_a_changed_a_longer_and_a_missing_file_are_refused(folder, name):
    path = folder / name
    content = path.read_bytes()
    for wrong, said in ((bytes([content[0] ^ 1]) + content[1:], "SHA-256"), (content + b"x", "bytes"), (b"", "bytes")):
        path.write_bytes(wrong)
        with pytest.raises(DeployError, match=f"{re.escape(name)}.*{said}.*get it again"):
            runtime.open_artifact(folder)
    path.unlink()
    with pytest.raises(DeployError, match=f"expected the file {re.escape(name)}"):
        runtime.open_artifact(folder)


def test_links_are_refused(folder, tmp_path):
    real = tmp_path / "real.so"
    shutil.move(folder / "model.so", real)
    (folder / "model.so").symlink_to(real)
    with pytest.raises(DeployError, match="symbolic link"):
        runtime.open_artifact(folder)
    (folder / "model.so").unlink()
    shutil.move(real, folder / "model.so")
    shutil.move(folder / "manifest.json", tmp_path / "m.json")
    (folder / "manifest.json").symlink_to(tmp_path / "m.json")
    with pytest.raises(DeployError, match=r"manifest\.json to be a regular file"):
        runtime.open_artifact(folder)


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "lib/../../x", "lib//x", "a\\b", ".hidden", "lib/a/b", "", "manifest.json", "a:b"]
)
def test_names_that_lead_out_of_the_artefact_are_refused(folder, name):
    assert not runtime.is_safe_name(name)
    edit(folder, lambda m: m["files"].update({name: {"sha256": "0" * 64, "bytes": 1}}))
    with pytest.raises(DeployError, match="inside the artefact"):
        runtime.open_artifact(folder)


WRONG = {
    "another format": (lambda m: m.update(format=2), "expected format 1, got 2.*gluonface 0"),
    "format as text": (lambda m: m.update(format="1"), "expected format 1"),
    "a missing key": (lambda m: m.pop("nms"), r"missing \['nms'\]"),
    "an unknown key": (lambda m: m.update(extra=1), r"unknown \['extra'\]"),
    "a list for an object": (lambda m: m.update(target=[]), "target: expected an object"),
    "a number for a text": (lambda m: m["target"].update(mcpu=3), r"target\.mcpu: expected a text, got 3"),
    "a hash that is none": (lambda m: m.update(weights_sha256="abc"), "weights_sha256: expected a SHA-256"),
    "a bool for a number": (
        lambda m: m["buckets"][0].update(batch=True),
        r"buckets\[0\]\.batch: expected a whole number",
    ),
    "a negative side": (lambda m: m["buckets"][0].update(size_hw=[-1, 5]), r"buckets\[0\]\.size_hw"),
    "a size of three": (lambda m: m["buckets"][0].update(size_hw=[1, 2, 3]), r"buckets\[0\]\.size_hw"),
    "a function of another name": (
        lambda m: m["buckets"][0].update(function="b2_96x128"),
        "expected 'b1_96x128'|b1_96x128",
    ),
    "no buckets": (lambda m: m.update(buckets=[]), "buckets: expected at least one"),
    "a bucket twice": (lambda m: m["buckets"].append(m["buckets"][0]), "each shape once"),
    "another model": (lambda m: m.update(model="other"), "model: expected what the facts say"),
    "another task": (lambda m: m["facts"].update(task="landmarks"), "task: expected what the facts say"),
    "an unknown fact": (lambda m: m["facts"].update(secret=1), r"facts: unknown keys \['secret'\]"),
    "outputs in another order": (lambda m: m["outputs"].reverse(), "outputs: expected scores, bboxes"),
    "tuned in words": (lambda m: m["schedules"].update(tuned="yes"), r"schedules\.tuned: expected true or false"),
    "a text for a threshold": (lambda m: m["nms"].update(nms_thresh="0.4"), r"nms\.nms_thresh: expected a number"),
    "no library": (lambda m: m["files"].pop("model.so"), "expected model.so among the files"),
    "too many files": (
        lambda m: m["files"].update({f"f{i}": {"sha256": "0" * 64, "bytes": 1} for i in range(100)}),
        "at most 64 files",
    ),
    "files of terabytes": (
        lambda m: m["files"]["model.so"].update(bytes=10**13),
        "at most 64 files and 1073741824 bytes",
    ),
    "a flag of two words": (lambda m: m["target"].update(features=["a\nb"]), r"target\.features"),
    "a name of two lines": (lambda m: (m.update(model="a\nb"), m["facts"].update(name="a\nb")), r"facts\.name"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_manifest_that_is_wrong_is_refused_by_name(folder, what):
    change, said = WRONG[what]
    edit(folder, change)
    with pytest.raises(DeployError, match=said):
        runtime.open_artifact(folder)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"format": 1, "format": 1}', "format twice"),
        ('{"format": 1, "nms": {"a": 1, "a": 2}}', "a twice"),
        ('{"format": NaN}', "got NaN"),
        ("[]", "the whole: expected an object"),
        ("null", "the whole: expected an object"),
        ("{", "expected the JSON of a manifest"),
        ("", "expected the JSON of a manifest"),
        ("[" * 100_000, "expected the JSON of a manifest"),
        (" " * 2**21, "at most 1048576 bytes"),
        (b"\xff\xfe{}", "expected the JSON of a manifest"),
    ],
)
def test_text_that_is_no_manifest_is_refused(folder, text, said):
    (folder / "manifest.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DeployError, match=said):
        runtime.open_artifact(folder)


def test_whatever_happens_to_a_manifest_is_a_typed_error_or_harmless(folder, rng):
    original = json.loads((folder / "manifest.json").read_text())
    odd = [None, True, -1, 0, 1e308, "", "x", "\0", [], {}, [[]], {"a": 1}, 10**30]
    refused = 0
    for _ in range(300):
        values = copy.deepcopy(original)
        place, parent = values, None
        while isinstance(place, (dict, list)) and place:
            parent = place
            key = rng.choice(list(place)) if isinstance(place, dict) else int(rng.integers(len(place)))
            place = place[key]
            if rng.random() < 0.3:
                break
        parent[key] = odd[rng.integers(len(odd))]
        (folder / "manifest.json").write_text(json.dumps(values))
        try:
            runtime.open_artifact(folder)
        except DeployError as error:
            assert str(folder) in str(error)
            refused += 1
    assert refused > 150


@pytest.mark.parametrize("path", ["none", "file", "empty"])
def test_what_is_no_artefact_is_refused(tmp_path, path):
    (tmp_path / "file").write_bytes(b"hello")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DeployError, match="expected an artefact"):
        runtime.open_artifact(tmp_path / path)


# ---- zips ------------------------------------------------------------------------------------------------------------


def repack(source: Path, target: Path, change=None) -> Path:
    """A zip of what ``change`` makes of the list of (ZipInfo, bytes) of another."""
    with zipfile.ZipFile(source) as archive:
        entries = [(entry, archive.read(entry)) for entry in archive.infolist()]
    entries = change(entries) if change else entries
    with zipfile.ZipFile(target, "w") as archive:
        for entry, content in entries:
            archive.writestr(entry, content)
    return target


@pytest.fixture
def packed(toy, tmp_path, library) -> Path:
    return write(toy, tmp_path / "good.zip", library, as_zip=True)


@pytest.mark.parametrize("name", ["../evil", "/evil", "lib/../../evil", "a/b/c", "lib/", "C:evil"])
def test_a_zip_with_names_that_lead_out_is_refused(packed, tmp_path, cache, name):
    bad = repack(packed, tmp_path / "bad.zip", lambda entries: [*entries, (zipfile.ZipInfo(name), b"evil")])
    with pytest.raises(DeployError, match="expected names like"):
        runtime.open_artifact(bad)
    assert not list(tmp_path.rglob("*evil*"))


def test_a_zip_with_a_link_is_refused(packed, tmp_path):
    link = zipfile.ZipInfo("lib/link.so")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    bad = repack(packed, tmp_path / "bad.zip", lambda entries: [*entries, (link, b"/etc/passwd")])
    with pytest.raises(DeployError, match="is a link"):
        runtime.open_artifact(bad)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ["model.so", "MODEL.SO"])
def test_a_zip_with_a_file_twice_is_refused(packed, tmp_path, name):
    bad = repack(packed, tmp_path / "bad.zip", lambda entries: [*entries, (zipfile.ZipInfo(name), b"other")])
    with pytest.raises(DeployError, match="twice"):
        runtime.open_artifact(bad)


def test_a_zip_with_a_file_the_manifest_does_not_name_is_refused(packed, tmp_path):
    bad = repack(packed, tmp_path / "bad.zip", lambda entries: [*entries, (zipfile.ZipInfo("lib/more.so"), b"?")])
    with pytest.raises(DeployError, match=r"lib/more\.so"):
        runtime.open_artifact(bad)


def test_a_zip_that_would_unpack_to_gigabytes_is_refused_before_it_is(packed, tmp_path, cache, monkeypatch):
    monkeypatch.setattr(reader, "MAX_BYTES", 100_000)
    bomb = zipfile.ZipInfo("lib/bomb")
    bomb.compress_type = zipfile.ZIP_DEFLATED
    bad = repack(packed, tmp_path / "bad.zip", lambda entries: [*entries, (bomb, bytes(1_000_000))])
    assert bad.stat().st_size < 20_000
    with pytest.raises(DeployError, match="at most 64 files and 100000 bytes"):
        runtime.open_artifact(bad)
    assert not list(cache.rglob("bomb"))


def test_a_zip_that_lies_about_its_size_is_refused(packed, tmp_path, cache):
    bomb = zipfile.ZipInfo("lib/bomb")
    bomb.compress_type = zipfile.ZIP_DEFLATED
    bad = repack(packed, tmp_path / "bad.zip", lambda entries: [(bomb, bytes(1_000_000)), *entries])
    data = bytearray(bad.read_bytes())
    # Both headers of the first entry say a hundred bytes.
    for magic, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = data.index(magic) + offset
        assert struct.unpack_from("<I", data, at) == (1_000_000,)
        struct.pack_into("<I", data, at, 100)
    bad.write_bytes(data)
    with pytest.raises(DeployError, match="bomb|damaged"):
        runtime.open_artifact(bad)
    assert sum(path.stat().st_size for path in cache.rglob("*") if path.is_file()) < 100_000


def test_a_zip_that_is_damaged_anywhere_is_refused_and_leaves_nothing(packed, tmp_path, cache, rng):
    good = packed.read_bytes()
    bad = tmp_path / "bad.zip"
    refused = 0
    for _ in range(60):
        data = bytearray(good)
        data[rng.integers(len(data))] ^= int(rng.integers(1, 256))
        bad.write_bytes(data)
        try:
            read = runtime.open_artifact(bad)
        except DeployError:
            refused += 1
        else:  # a time stamp, say
            assert zlib.crc32(read.library.read_bytes()) == zlib.crc32((tmp_path / "compiled.so").read_bytes())
    for cut in (3, 30, 1000, len(good) - 1):
        bad.write_bytes(good[:cut])
        with pytest.raises(DeployError):
            runtime.open_artifact(bad)
    assert refused > 40
    assert not list(cache.rglob(".*"))


# ---- machine and versions --------------------------------------------------------------------------------------------


def test_another_tvm_ffi_is_refused_with_the_line_that_installs_the_right_one(toy, tmp_path, library):
    versions = {**artifact.installed_versions(), "tvm_ffi": "0.1.99.post2"}
    out = write(toy, tmp_path / "a", library, versions=versions)
    with pytest.raises(DeployError, match=r"pip install apache-tvm-ffi==0\.1\.99\.post2"):
        runtime.open_artifact(out)
    assert runtime.open_artifact(out, check_host=False).manifest.versions == versions


def test_a_post_release_of_tvm_ffi_is_the_same_and_none_at_all_is_refused():
    installed = artifact.installed_versions()["tvm_ffi"]
    libraries.check_versions({"tvm_ffi": re.match(r"[\d.]*\d", installed.split(".post")[0]).group() + ".post77"}, "a")
    with pytest.raises(DeployError, match="says nothing"):
        libraries.check_versions({}, "a")


def test_without_tvm_ffi_the_error_names_the_extra(monkeypatch):
    def missing(name):
        raise libraries.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(libraries.importlib.metadata, "version", missing)
    with pytest.raises(MissingDependencyError, match=r"gluonface\[runtime\]"):
        libraries.check_versions({"tvm_ffi": "0.1.14"}, "a")


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (runtime.Target("llvm", "riscv64-unknown-linux-gnu"), "compiled for riscv64.*this machine is"),
        (runtime.Target("cuda", "x86_64-unknown-linux-gnu"), "one for cuda"),
        (runtime.Target("llvm", "x86_64-pc-windows-msvc"), "compiled for windows"),
        (runtime.Target("llvm", "x86_64-apple-macosx11"), "compiled for darwin"),
        (runtime.Target("llvm", "x86_64-linux-gnu", "x86-64-v4", ("avx512f", "zap", "avx2")), "lacks avx512f, zap;"),
    ],
)
def test_an_artefact_for_another_machine_is_refused_before_its_files_are_read(
    toy, tmp_path, library, monkeypatch, target, said
):
    out = write(toy, tmp_path / "a", library)
    edit(out, lambda m: m.update(target=dataclasses.asdict(target)))
    (out / "model.so").write_bytes(b"")
    monkeypatch.setattr(machine.platform, "machine", lambda: "AMD64")
    monkeypatch.setattr(machine.platform, "system", lambda: "Linux")
    monkeypatch.setattr(machine, "cpu_features", lambda: frozenset({"avx2", "fma"}))
    with pytest.raises(DeployError, match=said + ".*gluonface compile"):
        runtime.open_artifact(out)


@pytest.mark.parametrize(
    ("text", "found"), [("flags\t\t: fpu avx2\n", {"fpu", "avx2"}), ("Features : fp asimd\n", {"fp", "asimd"})]
)
def test_flags_of_the_processor_are_read(tmp_path, text, found):
    (tmp_path / "cpuinfo").write_text("processor : 0\n" + text)
    assert runtime.cpu_features(tmp_path / "cpuinfo") == found
    assert runtime.cpu_features(tmp_path / "none") is None


def test_what_a_processor_needs_is_known_by_level_or_from_the_host():
    assert "avx2" in runtime.features_of("x86-64-v3") and "avx512f" not in runtime.features_of("x86-64-v3")
    assert set(runtime.features_of("x86-64-v3")) < set(runtime.features_of("x86-64-v4"))
    assert runtime.features_of("x86-64") == ()
    assert runtime.features_of("skylake", frozenset({"avx2", "ht", "vmx"})) == ("avx2",)
    assert runtime.features_of("cortex-a72") == ()


def test_a_machine_without_a_list_of_flags_takes_the_compilers_word(monkeypatch):
    monkeypatch.setattr(machine, "cpu_features", lambda: None)
    target = runtime.Target("llvm", f"{runtime.architecture()}-none", "x86-64-v4", ("avx512f",))
    machine.check_machine(target, "a")


def test_only_compiled_shapes_are_given_out(toy):
    manifest = toy.manifest("detection", BUCKETS)
    assert manifest.bucket(4, (480, 640)).shape == (4, 480, 640, 3)
    with pytest.raises(DeployError, match=r"b1_96x128, b4_480x640, got b2_96x128.*--batch 2 --size 96x128"):
        manifest.bucket(2, (96, 128))
