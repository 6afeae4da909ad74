r"""Make the file that says what the vertices of a face mesh are (gluonface.mesh.load_topology reads it).

The paper's kind, some vertices of the Basel Face Model, from files that you have a licence for:

    python train/make_topology.py subset --name bfm1103 --shape mean_shape.npy --vertices subset.txt \
        --triangles subset_triangles.txt --points68 keypoints.npy --parts parts.json --out bfm1103.npz

and the 468 vertices that come with the package, from MediaPipe's canonical face:

    python train/make_topology.py mediapipe --shape mesh468_canonical.npy --triangles mesh468_triangles.npy \
        --uv mesh468_uv.npy --points68 mesh468_to_68.json --out gluonface/mesh/mesh468.npz

A FILE is .npy, .txt (numbers), .json, .obj (shape and triangles), or .npz or .mat with the name of an array behind it:
model.mat:shapeMU. A shape may be (N, 3), (3, N), or 3N numbers, x y z of each vertex in turn. All numbers of vertices
count from 0; --one-based says that those of all files count from 1, as in Matlab.

Parts and outlines are JSON, {"left eye": [vertices ...], ...}: the vertices in a part, or those round it. Name them as
gluonface.mesh.PARTS does, left and right being the viewer's.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from gluonface._compat import import_optional
from gluonface.errors import DataError, GluonFaceError
from gluonface.mesh import PARTS, MeshTopology, read_obj, save_topology, subset_topology
from gluonface.mesh.topology import read_arrays

#: Outlines in MediaPipe's mesh of the parts at the viewer's left, and of those in the middle.
LEFT_BROW = (70, 63, 105, 66, 107, 55, 65, 52, 53, 46)
LEFT_EYE = (33, 7, 163, 144, 145, 153, 154, 155, 133, 173, 157, 158, 159, 160, 161, 246)
#: From the bridge between the eyes down the side, round the wing and along the base.
LEFT_HALF_OF_NOSE = (168, 193, 245, 114, 217, 198, 209, 129, 98, 97, 2)
#: From the left corner of the mouth to the middle, outside and inside.
UPPER_LIP_OUTSIDE, UPPER_LIP_INSIDE = (61, 185, 40, 39, 37, 0), (78, 191, 80, 81, 82, 13)
LOWER_LIP_OUTSIDE, LOWER_LIP_INSIDE = (61, 146, 91, 181, 84, 17), (78, 95, 88, 178, 87, 14)
#: Between both lips at the left corner.
MOUTH_CORNER = (61, 76, 62, 78)
NOSE_TIP = 1  # where the model puts a depth of 0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--shape", required=True, metavar="FILE", help="mean face: x right, y up, z to the viewer")
    common.add_argument("--triangles", metavar="FILE", help="(T, 3); a .obj shape has its own")
    common.add_argument("--points68", metavar="FILE", help="the vertex of the model for each of the 68 points")
    common.add_argument("--uv", metavar="FILE", help="texture coordinates (N, 2) from the upper left corner")
    common.add_argument("--out", type=Path, required=True, help=".npz file to write")
    kinds.add_parser("mediapipe", parents=[common], help="the 468 vertices of MediaPipe")
    subset = kinds.add_parser("subset", parents=[common], help="some or all vertices of another model")
    subset.add_argument("--name", required=True, help="of this kind of mesh")
    subset.add_argument("--vertices", metavar="FILE", help="vertices of the model that are used (default: all)")
    subset.add_argument(
        "--triangles-of", choices=("subset", "model"), default="subset", help="what --triangles count (default: subset)"
    )
    subset.add_argument("--nose-tip", type=int, help="vertex of the model (default: that of the 68 points)")
    subset.add_argument("--parts", metavar="FILE", help="JSON: vertices in each part")
    subset.add_argument("--outlines", metavar="FILE", help="JSON: vertices round each part")
    subset.add_argument("--one-based", action="store_true", help="vertices count from 1 in all files")
    args = parser.parse_args(argv)
    try:
        topology = mediapipe_topology(args) if args.kind == "mediapipe" else model_topology(args)
        save_topology(args.out, topology)
    except GluonFaceError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{args.out}: {topology}")
    return 0


def model_topology(args: argparse.Namespace) -> MeshTopology:
    """The topology of the command ``subset``."""
    first = int(args.one_based)

    def numbers(source):
        return None if source is None else whole_numbers(read_array(source), source) - first

    shape, triangles = read_shape(args.shape)
    if args.triangles is not None:
        triangles = numbers(args.triangles)
    if triangles is None:
        raise DataError(f"{args.shape}: has no triangles; name their file with --triangles")
    parts, outlines = (
        {part: np.array(rows) - first for part, rows in read_parts(source).items()}
        for source in (args.parts, args.outlines)
    )
    return subset_topology(
        args.name,
        shape,
        triangles,
        None if args.vertices is None else numbers(args.vertices).ravel(),
        triangles_of=args.triangles_of,
        points=None if args.points68 is None else {"68": numbers(args.points68).ravel()},
        nose_tip=None if args.nose_tip is None else args.nose_tip - first,
        parts=parts,
        outlines=outlines,
        uv=None if args.uv is None else read_array(args.uv),
    )


def mediapipe_topology(args: argparse.Namespace) -> MeshTopology:
    """The topology of the command ``mediapipe``; its table of 68 points has a `common` and a `fitted` row."""
    shape, triangles = read_shape(args.shape)
    triangles = triangles if args.triangles is None else read_array(args.triangles)
    if args.points68 is None:
        raise DataError("expected --points68, JSON with the tables `common` and `fitted`")
    tables = read_lists(args.points68)
    if not {"fitted", "common"} <= set(tables):
        raise DataError(
            f"{args.points68}: expected the tables `common` and `fitted`, got {', '.join(tables) or 'none'}"
        )
    arguments = {
        "points": {"68": np.array(tables["fitted"]), "68_common": np.array(tables["common"])},
        "nose_tip": NOSE_TIP,
        "uv": None if args.uv is None else read_array(args.uv),
    }
    # Outlines at the viewer's right are the mirror images of those at the left.
    flip = subset_topology("mediapipe468", shape, triangles, **arguments).flip_index
    if flip is None:
        raise DataError(f"{args.shape}: expected MediaPipe's canonical face, which is symmetric")
    return subset_topology("mediapipe468", shape, triangles, outlines=mediapipe_outlines(flip), **arguments)


def mediapipe_outlines(flip_index: np.ndarray) -> dict[str, list[int]]:
    """Outline of each of `gluonface.mesh.PARTS` in MediaPipe's mesh."""

    def mirrored(line):
        return flip_index[list(line)].tolist()

    def across(line):
        """A line from the left to the middle, and on to the right."""
        return [*line, *mirrored(line[-2::-1])]

    def lip(outside, inside):
        corner = MOUTH_CORNER[1:-1]
        return [*across(outside), *mirrored(corner), *across(inside)[::-1], *corner[::-1]]

    right = mirrored(LEFT_HALF_OF_NOSE[-2:0:-1])
    lines = (
        *(LEFT_BROW, mirrored(LEFT_BROW), LEFT_EYE, mirrored(LEFT_EYE), [*LEFT_HALF_OF_NOSE, *right]),
        *(lip(UPPER_LIP_OUTSIDE, UPPER_LIP_INSIDE), lip(LOWER_LIP_OUTSIDE, LOWER_LIP_INSIDE)),
    )
    return dict(zip(PARTS, lines))


def read_shape(source: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Vertices (N, 3) and, of a .obj file, triangles."""
    if source.lower().endswith(".obj"):
        mesh = read_obj(source)
        return mesh.vertices, mesh.triangles
    shape = read_array(source).astype(np.float64)
    if shape.ndim == 2 and shape.shape[1] == 3:
        return shape, None
    if shape.ndim == 2 and shape.shape[0] == 3:
        return shape.T, None
    if shape.size % 3:
        raise DataError(f"{source}: expected x, y, z of each vertex, got {shape.size} numbers")
    return shape.reshape(-1, 3), None


def read_array(source: str) -> np.ndarray:
    """The array of a FILE, as the top of this script says."""
    if Path(source).suffix and Path(source).exists():
        path, key = source, ""
    else:
        path, _, key = source.rpartition(":") if ":" in source else (source, "", "")
    suffix = Path(path).suffix.lower()
    try:
        if suffix in (".txt", ".csv"):
            return np.loadtxt(path, delimiter="," if suffix == ".csv" else None)
        if suffix == ".json":
            return np.array(json.loads(Path(path).read_text("utf-8")))
        arrays = import_optional("scipy.io", "train").loadmat(path) if suffix == ".mat" else read_arrays(path)
    except (OSError, ValueError, NotImplementedError) as error:  # the last: Matlab's files since 7.3, which are HDF5
        raise DataError(f"{source}: {error}") from error
    arrays = {name: array for name, array in arrays.items() if not name.startswith("__")}
    if not key and len(arrays) == 1:
        return next(iter(arrays.values()))
    if key not in arrays:
        raise DataError(f"{source}: expected {path}:ARRAY, ARRAY one of {', '.join(sorted(arrays)) or 'none'}")
    return arrays[key]


def whole_numbers(array: np.ndarray, source: str) -> np.ndarray:
    """Numbers of vertices, which text and Matlab files hold as floats, as int64."""
    if array.dtype.kind not in "iuf" or (array != np.round(array)).any():
        raise DataError(f"{source}: expected whole numbers, numbers of vertices")
    return array.astype(np.int64)


def read_parts(source: str | None) -> dict[str, list[int]]:
    """The JSON of parts or outlines; empty for None."""
    return {} if source is None else read_lists(source)


def read_lists(source: str) -> dict[str, list[int]]:
    """Lists of vertices by name, of a JSON file."""
    try:
        lists = json.loads(Path(source).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{source}: {error}") from error
    alike = isinstance(lists, dict) and all(isinstance(rows, list) for rows in lists.values())
    if not alike or not all(type(number) is int for rows in lists.values() for number in rows):
        raise DataError(f'{source}: expected {{"left eye": [vertices ...], ...}}')
    return lists


if __name__ == "__main__":
    sys.exit(main())
