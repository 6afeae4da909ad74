"""Draw the mesh that a net finds of scikit-image's astronaut, for README.md.

    python benchmarks/draw_mesh.py [--model NAME] [--out docs/img/mesh_astronaut.jpg]

The face of the photo, its mesh as lines and as a surface in the light, the axes of the head and the parts of the face.
``gluonface detect --draw-mesh`` draws those of other photos, eval_mesh.py those of annotated ones.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from common import ROOT, run
from crowd import astronaut
from eval_mesh import PartSource, face_tiles

from gluonface import FaceAnalyzer, Faces
from gluonface.errors import InputError
from gluonface.image import save_image
from gluonface.mesh import topology_468
from gluonface.viz import contact_sheet

MODEL = "retinaface_mobilenet0.25_mesh468_fc26"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", default=MODEL, help="a net with the package's mesh (%(default)s)")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "img" / "mesh_astronaut.jpg", help="the picture")
    args = parser.parse_args(argv)
    photo = astronaut()
    faces = FaceAnalyzer(args.model)(photo)
    save_image(args.out, draw(photo, faces))
    print(args.out)
    return 0


def draw(photo: np.ndarray, faces: Faces) -> np.ndarray:
    """The best face found in a photo, (H, W, 3) uint8 RGB: the tiles of `eval_mesh.face_tiles`.

    Raises
    ------
    InputError
        The faces have no mesh of the package's topology, or there are none.
    """
    topology = topology_468()
    if not len(faces) or faces.mesh is None or faces.mesh.shape[1] != topology.num_vertices:
        raise InputError(f"expected a face with a mesh of {topology.num_vertices} vertices, got {faces}")
    if faces.pose is None:
        raise InputError(f"expected faces whose meshes give a pose, got {faces}")
    best = int(np.argmax(faces.scores))
    tiles = face_tiles(photo, faces.boxes[best], faces.mesh[best], faces.pose[best], topology, PartSource(topology))
    return contact_sheet(tiles, tiles[0].shape[:2], columns=len(tiles))


if __name__ == "__main__":
    run(main)
