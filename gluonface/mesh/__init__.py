"""Face meshes, and what follows from them without a net: points, pose, parts, denser meshes, files. NumPy only.

A mesh is an array (V, 3) in pixels of a photo: x to the right, y down, z in the same unit, smaller nearer to the
camera, 0 at the tip of the nose (RetinaFace, equations 1 to 4). What its vertices are is data, a `MeshTopology`: the
one of 468 vertices comes with the package, others are read from files.

mesh (V, 3) -> index maps -> five or 68 points                    MeshTopology.points_of
            -> least squares against the canonical shape -> pose   pose_from_mesh      (section 4.5)
            -> z-buffer -> which triangle a pixel shows            rasterize
                        -> parts of the face (H, W), their IoU     segment_parts, part_iou (table 4)
            -> linear map (V', V) -> denser mesh                   DenseMap            (section 4.5)
            -> OBJ, PLY                                            export_mesh

It is drawn by `gluonface.viz.draw_mesh`.
"""

from .convert import mirror_index, subset_topology, triangles_inside
from .dense import DenseMap, fit_dense_map
from .export import export_mesh, read_obj, turn_upright, vertex_colors, write_obj, write_ply
from .parts import PAPER_PARTS, PARTS, part_iou, segment_parts
from .raster import Raster, rasterize, signed_area, small_first, vertex_normals
from .rigid import fit_similarity, pose_from_mesh
from .topology import MeshTopology, load_topology, save_topology, topology_468

__all__ = [
    "PAPER_PARTS",
    "PARTS",
    "DenseMap",
    "MeshTopology",
    "Raster",
    "export_mesh",
    "fit_dense_map",
    "fit_similarity",
    "load_topology",
    "mirror_index",
    "part_iou",
    "pose_from_mesh",
    "rasterize",
    "read_obj",
    "save_topology",
    "segment_parts",
    "signed_area",
    "small_first",
    "subset_topology",
    "topology_468",
    "triangles_inside",
    "turn_upright",
    "vertex_colors",
    "vertex_normals",
    "write_obj",
    "write_ply",
]
