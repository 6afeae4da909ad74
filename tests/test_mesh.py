"""Meshes: made-up tetrahedra, spheres and sheets with known answers, and the topology that comes with the package."""

import zipfile

import numpy as np
import pytest

from gluonface import mesh as fm
from gluonface.errors import DataError, InputError
from gluonface.faces import SCHEMES, Faces
from gluonface.pose import fit_pose, geodesic_degrees, rotation_from_pose

TETRAHEDRON = np.array([[-1, -1, -1], [1, -1, -1], [0, 1, -1], [0, 0, 1]], float)  # apex at the viewer
SIDES = np.array([[0, 1, 3], [1, 2, 3], [2, 0, 3], [0, 2, 1]])


def topology(**fields) -> fm.MeshTopology:
    return fm.MeshTopology(**{"name": "four", "triangles": SIDES, "canonical": TETRAHEDRON, "nose_tip": 3, **fields})


def in_photo(shape, scale=20.0, centre=(50, 60, 0)) -> np.ndarray:
    """A canonical shape in pixels of a photo."""
    return fm.turn_upright(shape) * scale + centre


def sphere(rings=12, around=24) -> tuple[np.ndarray, np.ndarray]:
    """A closed unit sphere, triangles outwards."""
    polar = np.pi * np.arange(1, rings) / rings
    turn = 2 * np.pi * np.arange(around) / around
    grid = np.stack(
        [
            np.outer(np.sin(polar), np.cos(turn)),
            np.outer(np.sin(polar), np.sin(turn)),
            np.outer(np.cos(polar), np.ones(around)),
        ],
        axis=2,
    )
    vertices = np.concatenate([grid.reshape(-1, 3), [[0, 0, 1], [0, 0, -1]]])
    number = np.arange((rings - 1) * around).reshape(rings - 1, around)
    beside = np.roll(number, -1, axis=1)
    top, bottom = np.full(around, len(vertices) - 2), np.full(around, len(vertices) - 1)
    triangles = [
        np.stack([top, number[0], beside[0]], axis=1),
        np.stack([bottom, beside[-1], number[-1]], axis=1),
        np.stack([number[:-1].ravel(), number[1:].ravel(), beside[:-1].ravel()], axis=1),
        np.stack([beside[:-1].ravel(), number[1:].ravel(), beside[1:].ravel()], axis=1),
    ]
    return vertices, np.concatenate(triangles)


def painted(raster: fm.Raster, size_hw) -> np.ndarray:
    """(H, W): the triangle of each pixel, -1 for none."""
    picture = np.full(size_hw, -1)
    picture[raster.pixels] = raster.seen
    return picture


# topology


def test_the_topology_of_the_package_has_468_vertices_898_triangles_and_seven_parts():
    shipped = fm.topology_468()
    assert shipped.num_vertices == 468
    assert shipped.triangles.shape == (898, 3)
    assert shipped.part_names == fm.PARTS
    assert shipped.uv.min() >= 0 and shipped.uv.max() <= 1
    # Of a sheet with one outline: V - E + T = 1.
    assert 468 - len(shipped.edges) + 898 == 1
    assert (fm.signed_area(in_photo(shipped.canonical), shipped.triangles) > 0).mean() > 0.9


def test_parts_of_the_package_mirror_each_other_and_lie_where_the_68_points_do():
    shipped = fm.topology_468()
    mirrored = {tuple(sorted(row)) for row in shipped.flip_index[shipped.triangles[shipped.part_triangles("left eye")]]}
    assert mirrored == {tuple(sorted(row)) for row in shipped.triangles[shipped.part_triangles("right eye")]}
    points = shipped.points_of(shipped.canonical, "68_common")
    scheme = SCHEMES["68"]
    for part, rows in (
        ("left brow", range(18, 22)),
        ("right brow", range(22, 26)),
        ("left eye", scheme.contours[5][:-1]),
        ("right eye", scheme.contours[6][:-1]),
        ("nose", scheme.groups["nose"]),
        ("upper lip", (48, 49, 50, 51, 52, 53, 54, 61, 62, 63)),
        ("lower lip", (48, 54, 55, 56, 57, 58, 59, 65, 66, 67)),
    ):
        vertices = np.unique(shipped.triangles[shipped.part_triangles(part)])
        found = np.linalg.norm(shipped.canonical[vertices][:, None] - points[list(rows)], axis=2).min(axis=0)
        assert found.max() < 0.4, part  # centimetres


def test_points_are_means_of_vertices_and_five_follow_from_68():
    own = topology(points={"three": [[0, -1], [1, 2], [3, -1]]})
    np.testing.assert_allclose(own.points_of(TETRAHEDRON, "three"), [[-1, -1, -1], [0.5, 0, -1], [0, 0, 1]])
    np.testing.assert_allclose(own.points_of(TETRAHEDRON[None, :, :2], "three")[0, 1], [0.5, 0])
    shipped = fm.topology_468()
    dense = shipped.points_of(shipped.canonical[:, :2], "68")
    np.testing.assert_allclose(shipped.points_of(shipped.canonical[:, :2], "5"), SCHEMES["68"].five_points(dense))
    left, right, nose, *_ = shipped.points_of(shipped.canonical, "5")
    assert left[0] < 0 < right[0] and left[1] > nose[1] and nose[2] > left[2]
    with pytest.raises(InputError, match="expected a scheme of three, got '5'"):
        own.points_of(TETRAHEDRON, "5")
    with pytest.raises(InputError, match=r"shape \(..., 468, 2 or 3\), got \(4, 3\)"):
        shipped.points_of(TETRAHEDRON)


def test_points_outside_the_mask_of_an_index_map_do_not_count_even_where_they_are_not_finite():
    shape = TETRAHEDRON.copy()
    shape[3] = np.nan  # the vertex that -1 would pick
    assert np.isfinite(topology(points={"one": [[0, -1]]}).points_of(shape, "one")).all()


def test_a_topology_comes_back_from_its_file(tmp_path):
    own = topology(
        points={"a": [0, 1], "b": [[0, -1], [2, 3]]},
        part_names=("left", "right"),
        triangle_parts=[0, 2, 1, 0],
        uv=TETRAHEDRON[:, :2],
        flip_index=[1, 0, 2, 3],
    )
    for each in (own, topology(), fm.topology_468()):
        fm.save_topology(tmp_path / "mesh.npz", each)
        back = fm.load_topology(tmp_path / "mesh.npz")
        assert (back.name, back.nose_tip, back.part_names) == (each.name, each.nose_tip, each.part_names)
        assert back.points.keys() == each.points.keys()
        for scheme in each.points:
            np.testing.assert_array_equal(back.points[scheme], each.points[scheme])
        for name in ("triangles", "canonical", "triangle_parts", "uv", "flip_index"):
            np.testing.assert_array_equal(getattr(back, name), getattr(each, name))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mesh.npz"]
    with pytest.raises(ValueError, match="read-only"):
        back.triangles[0, 0] = 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"triangles": [[0, 1, 4]]}, "expected vertices 0 to 3, got 0 to 4"),
        ({"triangles": [[0, 1, -1]]}, "expected vertices 0 to 3, got -1 to 1"),
        ({"triangles": [[0, 1, 1]]}, "three different vertices"),
        ({"triangles": [[0, 1]]}, r"expected shape \(T, 3\)"),
        ({"triangles": [[0.0, 1.0, 2.0]]}, "expected numbers of vertices, got float64"),
        ({"canonical": np.full((4, 3), np.inf)}, "canonical: expected finite"),
        ({"canonical": TETRAHEDRON[:, :2]}, r"expected shape \(V, 3\)"),
        ({"nose_tip": 4}, "nose_tip: expected vertices 0 to 3"),
        ({"nose_tip": [1]}, "nose_tip: expected one vertex"),
        ({"points": {"68": [0, 1, 2]}}, "expected 68 rows, got 3"),
        ({"points": {"x": [[0], [-1]]}}, "got none for point 1"),
        ({"part_names": ("a", "a")}, "different names"),
        ({"part_names": ("a",), "triangle_parts": [0, 1, 2, 0]}, "expected 0 to 1, got 0 to 2"),
        ({"triangle_parts": [0, 0]}, "expected 4 numbers of parts"),
        ({"uv": TETRAHEDRON}, r"uv: expected shape \(4, 2\)"),
        ({"flip_index": [1, 2, 0, 3]}, "mirror back"),
    ],
)
def test_a_topology_that_does_not_fit_together_is_refused(fields, message):
    with pytest.raises(InputError, match=message):
        topology(**fields)


def test_damaged_and_foreign_files_are_data_errors(tmp_path):
    path = tmp_path / "mesh.npz"
    fm.save_topology(path, topology())
    whole = path.read_bytes()
    arrays = dict(np.load(path))
    with pytest.raises(DataError, match="missing.npz: cannot be read"):
        fm.load_topology(tmp_path / "missing.npz")
    for content in (b"", b"no archive", whole[: len(whole) // 2], whole[:300] + bytes(100) + whole[400:]):
        path.write_bytes(content)
        with pytest.raises(DataError, match="mesh.npz"):
            fm.load_topology(path)
    for change, message in (
        ({"format": "weights"}, "got a file of 'weights'"),
        ({"version": 2}, "expected version 1 of the format, got 2"),
        ({"version": "one"}, "expected version 1"),
        ({"triangles": [[0, 1, 9]]}, "expected vertices 0 to 3"),
        ({"colour": [1]}, "unknown: .'colour'."),
        ({"nose_tip": np.array([{}])}, "cannot be read"),  # pickled
    ):
        np.savez(path, **{**arrays, **change})
        with pytest.raises(DataError, match=message):
            fm.load_topology(path)
    np.savez(path, **{key: value for key, value in arrays.items() if key != "canonical"})
    with pytest.raises(DataError, match="arrays missing: .'canonical'."):
        fm.load_topology(path)
    np.save(tmp_path / "mesh.npy", TETRAHEDRON)
    with pytest.raises(DataError, match="no format"):
        fm.load_topology(tmp_path / "mesh.npy")


@pytest.mark.parametrize("seed", range(40))
def test_any_damage_to_a_file_is_a_data_error_or_harmless(tmp_path, seed):
    path = tmp_path / "mesh.npz"
    fm.save_topology(path, topology(uv=TETRAHEDRON[:, :2]))
    rng = np.random.default_rng(seed)
    content = bytearray(path.read_bytes())
    for place in rng.integers(0, len(content), 3):
        content[place] = rng.integers(256)
    path.write_bytes(content)
    try:
        fm.load_topology(path)
    except DataError as error:
        assert "mesh.npz" in str(error)


# pose


@pytest.mark.parametrize("pose", [(0, 0, 0), (30, -10, 5), (-75, 20, -40), (10, 0, 170)])
def test_the_pose_of_a_turned_shifted_and_scaled_face_is_that_of_its_turn(pose):
    shipped = fm.topology_468()
    turned = shipped.canonical @ rotation_from_pose(pose).T
    meshes = np.stack([in_photo(turned), in_photo(turned, 0.7, (900, -20, 55))])
    for scheme in (None, "68", "5"):
        found, residual = fm.pose_from_mesh(meshes, shipped, scheme)
        np.testing.assert_allclose(found, [pose, pose], atol=1e-4)
        np.testing.assert_allclose(residual, 0, atol=1e-6)
    # The fit without depth agrees.
    np.testing.assert_allclose(fit_pose(meshes[..., :2], shipped.canonical)[0], [pose, pose], atol=1e-3)


def test_pose_and_residual_do_not_change_with_place_and_size_of_a_noisy_mesh(rng):
    shipped = fm.topology_468()
    noisy = in_photo(shipped.canonical @ rotation_from_pose([20, 5, -8]).T) + rng.normal(0, 2, (468, 3))
    pose, residual = fm.pose_from_mesh(np.stack([noisy, noisy * 3 + (100, -50, 7)]), shipped)
    np.testing.assert_allclose(pose[0], pose[1], atol=1e-6)
    assert residual[0] == pytest.approx(residual[1])
    assert geodesic_degrees(rotation_from_pose(pose[0]), rotation_from_pose([20, 5, -8])) < 1
    size = np.sqrt(np.ptp(noisy[:, :2], axis=0).prod())
    assert residual[0] == pytest.approx(2 * np.sqrt(3) / size, rel=0.05)


def test_turning_a_mesh_in_the_image_turns_its_rotation_with_it(rng):
    shipped = fm.topology_468()
    noisy = shipped.canonical + rng.normal(0, 0.3, (468, 3))
    turn = rotation_from_pose([25, -30, 50])
    (before, after), _ = fm.pose_from_mesh(np.stack([in_photo(noisy), in_photo(noisy @ turn.T)]), shipped)
    np.testing.assert_allclose(rotation_from_pose(after), turn @ rotation_from_pose(before), atol=1e-6)


def test_a_mirror_image_gets_a_rotation_and_never_a_reflection(rng):
    source = rng.normal(size=(30, 3))
    scale, rotation, offset = fm.fit_similarity(source, np.stack([source * (-1, 1, 1), 2 * source + 5]))
    np.testing.assert_allclose(np.linalg.det(rotation), 1)
    np.testing.assert_allclose(rotation[1], np.eye(3), atol=1e-9)
    assert scale[1] == pytest.approx(2) and 0 < scale[0] < 1
    np.testing.assert_allclose(offset[1], 5)
    # No rotation near the one found fits the mirror image better.
    middle = source - source.mean(axis=0)
    best = np.trace(rotation[0].T @ (middle * (-1, 1, 1)).T @ middle)
    for pose in rng.uniform(-20, 20, (50, 3)):
        other = rotation_from_pose(pose) @ rotation[0]
        assert np.trace(other.T @ (middle * (-1, 1, 1)).T @ middle) <= best + 1e-9


def test_a_flat_face_has_one_best_rotation(rng):
    flat = rng.normal(size=(20, 3)) * (1, 1, 0)
    turn = rotation_from_pose([40, 10, -15])
    _, rotation, _ = fm.fit_similarity(flat, (flat @ turn.T)[None])
    np.testing.assert_allclose(rotation[0], turn, atol=1e-9)


def test_a_mesh_without_a_pose_gets_nan_and_its_neighbours_do_not():
    own = topology()
    good = in_photo(TETRAHEDRON)
    line = np.arange(4)[:, None] * np.array([[1.0, 2.0, 3.0]])
    pose, residual = fm.pose_from_mesh(np.stack([good, good * np.nan, line, np.zeros((4, 3))]), own)
    np.testing.assert_allclose(pose[0], 0, atol=1e-9)
    assert np.isnan(pose[1:]).all() and np.isnan(residual[1:]).all()
    assert fm.pose_from_mesh(np.zeros((0, 4, 3)), own)[0].shape == (0, 3)
    with pytest.raises(InputError, match="line"):
        fm.fit_similarity(line, line[None])
    with pytest.raises(InputError, match=r"meshes of shape \(n, 4, 3\)"):
        fm.pose_from_mesh(good, own)


# z-buffer


def test_a_sphere_covers_a_disc_and_is_as_near_as_it_should_be():
    vertices, triangles = sphere(40, 80)
    raster = fm.rasterize(in_photo(vertices, 30, (50, 40, 0)), triangles, (80, 100))
    rows, columns = raster.pixels
    radius = np.hypot(columns + 0.5 - 50, rows + 0.5 - 40)
    assert radius.max() < 30
    assert len(rows) == pytest.approx(np.pi * 30**2, rel=0.01)
    inner = radius < 25
    z = raster.depth_at(np.stack([columns, rows], axis=1)[inner] + 0.5)
    np.testing.assert_allclose(z, -np.sqrt(30**2 - radius[inner] ** 2), atol=0.3)
    assert raster.depth_at([[0.5, 0.5], [-5, 400]]).tolist() == [np.inf, np.inf]


def test_of_two_triangles_the_nearer_one_is_seen_also_where_they_cross():
    # One lies at z = 0; the other goes from z = -10 at the left to 10 at the right.
    mesh = np.array([[0, 0, 0], [0, 40, 0], [40, 0, 0], [0, 0, -10], [0, 40, -10], [40, 0, 10]], float)
    triangles = np.array([[0, 1, 2], [3, 4, 5]])
    picture = painted(fm.rasterize(mesh, triangles, (40, 40)), (40, 40))
    assert (picture[5, :19] == 1).all() and (picture[5, 21:34] == 0).all()
    swapped = painted(fm.rasterize(mesh, triangles[::-1], (40, 40)), (40, 40))
    np.testing.assert_array_equal(swapped, np.where(picture < 0, -1, 1 - picture))


def test_a_sheet_cut_into_triangles_has_no_gap_and_no_pixel_too_many(rng):
    """Crooked triangles over a square: each pixel of it is covered, and by the triangle that holds its centre."""
    count = 9
    v, u = np.divmod(np.arange(count * count), count)
    inner = (u > 0) & (u < count - 1) & (v > 0) & (v < count - 1)
    mesh = np.stack([u * 8.0, v * 8.0, np.zeros(len(u))], axis=1)
    mesh[inner, :2] += rng.uniform(-2, 2, (inner.sum(), 2))
    corner = np.flatnonzero((u < count - 1) & (v < count - 1))
    triangles = np.concatenate(
        [
            np.stack([corner, corner + count, corner + count + 1], axis=1),
            np.stack([corner, corner + count + 1, corner + 1], axis=1),
        ]
    )
    for offset in (np.zeros(3), np.array([3.5, 2.5, 0]), np.array([1 / 3, 1 / 7, 0])):
        picture = painted(fm.rasterize(mesh + offset, triangles, (72, 72)), (72, 72))
        centre = np.arange(72) + 0.5
        covered = [(centre >= offset[k]) & (centre <= 64 + offset[k]) for k in (0, 1)]
        np.testing.assert_array_equal(picture >= 0, covered[1][:, None] & covered[0])
    # Whole pixels and halves: centres lie exactly on sides.
    mesh[inner, :2] = np.round(mesh[inner, :2] * 2) / 2
    assert (painted(fm.rasterize(mesh, triangles, (64, 64)), (64, 64)) >= 0).all()


def test_a_pixel_whose_centre_lies_on_a_common_side_up_to_rounding_is_covered(rng):
    """Sides in all directions through the centre of one pixel, rounded to either side of it."""
    centre = np.array([5.5, 3.5])
    for _ in range(1000):
        along = rng.uniform(-1, 1, 2)
        across = along[::-1] * (1, -1)
        before, after = rng.uniform(3, 30, 2)
        corners = [centre - before * along, centre + after * along, centre + 20 * across, centre - 20 * across]
        mesh = np.concatenate([corners, np.zeros((4, 1))], axis=1)
        raster = fm.rasterize(mesh, np.array([[0, 1, 2], [1, 0, 3]]), (8, 10), cull=False)
        assert np.isfinite(raster.depth_at(centre[None]))[0]


def test_triangles_seen_from_inside_count_only_when_asked_for():
    behind = in_photo(TETRAHEDRON @ rotation_from_pose([180, 0, 0]).T)
    front_sides = SIDES[:3]  # open: only the three sides that look at the viewer before the turn
    assert not len(fm.rasterize(behind, front_sides, (120, 100)).seen)
    assert len(fm.rasterize(behind, front_sides, (120, 100), cull=False).seen) > 100


def test_values_are_linear_within_triangles():
    mesh = in_photo(TETRAHEDRON)
    raster = fm.rasterize(mesh, SIDES, (120, 100))
    rows, columns = raster.pixels
    np.testing.assert_allclose(raster.interpolate(mesh[:, :2]), np.stack([columns, rows], axis=1) + 0.5, atol=1e-4)
    np.testing.assert_allclose(raster.interpolate(np.ones(4)), 1, atol=1e-6)


def test_a_mesh_may_lie_outside_or_be_far_too_large():
    for mesh in (in_photo(TETRAHEDRON, 5, (-50, 10, 0)), in_photo(TETRAHEDRON, 5, (10, 500, 0)), np.zeros((4, 3))):
        assert not len(fm.rasterize(mesh, SIDES, (30, 40)).seen)
    raster = fm.rasterize(in_photo(TETRAHEDRON, 1e6, (20, 15, 0)), SIDES, (30, 40))
    assert len(raster.seen) == 30 * 40
    with pytest.raises(InputError, match="finite"):
        fm.rasterize(TETRAHEDRON * np.nan, SIDES, (30, 40))


def test_the_batches_of_the_rasterizer_agree_with_the_whole(monkeypatch):
    vertices, triangles = sphere()
    mesh = in_photo(vertices @ rotation_from_pose([20, 30, 40]).T, 25, (30, 30, 0))
    whole = fm.rasterize(mesh, triangles, (60, 60), cull=False)
    values = whole.interpolate(vertices)
    monkeypatch.setattr("gluonface.mesh.raster._AT_ONCE", 50)
    parts = fm.rasterize(mesh, triangles, (60, 60), cull=False)
    np.testing.assert_array_equal(parts.triangle, whole.triangle)
    np.testing.assert_array_equal(parts.depth, whole.depth)
    np.testing.assert_array_equal(parts.interpolate(vertices), values)


def test_normals_of_a_sphere_point_outwards():
    vertices, triangles = sphere()
    mesh = in_photo(vertices, 7, (0, 0, 0))
    assert ((fm.vertex_normals(mesh, triangles) * mesh / 7).sum(axis=1) > 0.98).all()
    assert fm.vertex_normals(np.concatenate([mesh, [[0, 0, 0]]]), triangles)[-1].tolist() == [0, 0, 0]


# parts


def canonical_in_photo(pose=(0, 0, 0), scale=10.0, centre=(100, 100)) -> np.ndarray:
    return in_photo(fm.topology_468().canonical @ rotation_from_pose(pose).T, scale, (*centre, 0))


def test_each_part_is_where_it_belongs_on_a_face_that_looks_at_the_viewer():
    shipped = fm.topology_468()
    labels = fm.segment_parts(canonical_in_photo()[None], shipped, (200, 200))
    assert labels.dtype == np.uint8
    assert set(np.unique(labels)) == set(range(8))
    middle = {part: np.argwhere(labels == i).mean(axis=0)[::-1] for i, part in enumerate(fm.PARTS, start=1)}
    assert middle["left brow"][0] < 100 < middle["right brow"][0]
    assert middle["left eye"][0] < 100 < middle["right eye"][0]
    heights = [middle[part][1] for part in ("left brow", "left eye", "nose", "upper lip", "lower lip")]
    assert heights == sorted(heights)
    # Symmetric, but for pixels whose centre lies on a side.
    mirrored = np.array([0, 2, 1, 4, 3, 5, 6, 7])[labels[:, ::-1]]
    assert (mirrored == labels).mean() > 0.999


def test_the_nose_hides_the_far_eye_of_a_profile():
    labels = fm.segment_parts(canonical_in_photo((80, 0, 0))[None], fm.topology_468(), (200, 200))
    # The nose is at the viewer's left, so the eye at the viewer's left is the far one.
    assert not (labels == 1 + fm.PARTS.index("left eye")).any()
    assert (labels == 1 + fm.PARTS.index("right eye")).sum() > 5
    assert (labels == 1 + fm.PARTS.index("nose")).sum() > 200


def test_labels_do_not_change_with_the_depth_of_a_face_and_move_with_it():
    shipped = fm.topology_468()
    mesh = canonical_in_photo((20, 10, 5))
    labels = fm.segment_parts(mesh[None], shipped, (220, 220))
    np.testing.assert_array_equal(fm.segment_parts(mesh[None] + (0, 0, 500), shipped, (220, 220)), labels)
    moved = fm.segment_parts(mesh[None] + (7, 3, 0), shipped, (220, 220))
    assert (moved[3:, 7:] != labels[:-3, :-7]).sum() <= 3  # centres on a side


def test_the_larger_face_lies_on_top_with_all_of_its_mesh_in_either_order():
    shipped = fm.topology_468()
    large, small = canonical_in_photo(), canonical_in_photo(scale=4.0, centre=(100, 60))
    both = [fm.segment_parts(np.stack(pair), shipped, (200, 200)) for pair in ((large, small), (small, large))]
    alone = fm.segment_parts(large[None], shipped, (200, 200))
    np.testing.assert_array_equal(both[0], both[1])
    np.testing.assert_array_equal(both[0], alone)
    beside = canonical_in_photo(scale=4.0, centre=(240, 60))
    apart = fm.segment_parts(np.stack([large, beside]), shipped, (200, 300))
    np.testing.assert_array_equal(apart[:, :200], alone)
    assert set(np.unique(apart[:, 200:])) == set(range(8))


def test_no_face_is_all_background_and_a_topology_without_parts_is_refused():
    shipped = fm.topology_468()
    assert fm.segment_parts(np.zeros((0, 468, 3)), shipped, (5, 6)).tolist() == [[0] * 6] * 5
    with pytest.raises(InputError, match="names no parts"):
        fm.segment_parts(np.zeros((0, 4, 3)), topology(), (5, 6))


def test_iou_is_counted_over_all_pixels_of_all_photos():
    names = ("a", "b", "c")
    predicted = [np.array([[1, 1, 0, 2]]), np.array([[1], [2]])]
    truth = [np.array([[1, 0, 1, 2]]), np.array([[1], [1]])]
    found = fm.part_iou(predicted, truth, names)
    assert found["a"] == pytest.approx(2 / 5)
    assert found["b"] == pytest.approx(1 / 2)
    assert np.isnan(found["c"])
    # Taken as one part, a and b may be mistaken for each other.
    assert fm.part_iou(predicted, truth, names, {"both": ("a", "b")}) == {"both": pytest.approx(4 / 6)}
    labels = fm.segment_parts(canonical_in_photo()[None], fm.topology_468(), (200, 200))
    assert fm.part_iou([labels], [labels], groups=fm.PAPER_PARTS) == dict.fromkeys(("brow", "eye", "nose", "lip"), 1.0)


@pytest.mark.parametrize(
    ("predicted", "truth", "groups", "message"),
    [
        ([np.zeros((2, 2), int)], [], None, "got 1 and 0"),
        ([np.zeros((2, 2), int)], [np.zeros((2, 3), int)], None, r"got \(2, 2\) and \(2, 3\)"),
        ([np.zeros((2, 2))], [np.zeros((2, 2), int)], None, "whole numbers"),
        ([np.full((2, 2), 9)], [np.zeros((2, 2), int)], None, "expected labels 0 to 7"),
        ([], [], {"ear": ("ear",)}, "got ear"),
    ],
)
def test_label_maps_that_do_not_fit_are_refused(predicted, truth, groups, message):
    with pytest.raises(InputError, match=message):
        fm.part_iou(predicted, truth, groups=groups)


# denser meshes


def test_a_denser_mesh_turns_and_shifts_with_the_mesh(rng):
    dense = fm.DenseMap(np.array([[1, 0, 0, 0], [0.5, 0.5, 0, 0], [0.25, 0.25, 0.25, 0.25]]))
    np.testing.assert_allclose(dense(TETRAHEDRON), [[-1, -1, -1], [0, -1, -1], [0, -0.25, -0.5]])
    turn = rotation_from_pose([10, 20, 30])
    np.testing.assert_allclose(dense(TETRAHEDRON @ turn.T), dense(TETRAHEDRON) @ turn.T, atol=1e-6)
    far = dense(TETRAHEDRON[None] + 4000)
    np.testing.assert_allclose(far - 4000, dense(TETRAHEDRON)[None], atol=1e-3)


def test_a_dense_map_comes_back_from_its_file_and_wrong_ones_are_refused(tmp_path):
    dense = fm.DenseMap(np.array([[0.5, 0.5], [0.25, 0.75]], np.float32))
    dense.save(tmp_path / "map.npz")
    np.save(tmp_path / "map.npy", dense.matrix)
    for name in ("map.npz", "map.npy"):
        np.testing.assert_array_equal(fm.DenseMap.load(tmp_path / name).matrix, dense.matrix)
    with pytest.raises(InputError, match=r"got 0.5 in row 1"):
        fm.DenseMap(np.array([[1, 0], [0.5, 0]]))
    with pytest.raises(InputError, match="row 0"):
        fm.DenseMap(np.full((2, 2), np.nan))
    with pytest.raises(InputError, match=r"expected meshes \(..., 2, D\), got \(4, 3\)"):
        dense(TETRAHEDRON)
    np.savez(tmp_path / "map.npz", weights=dense.matrix)
    with pytest.raises(DataError, match="expected an array 'matrix', got weights"):
        fm.DenseMap.load(tmp_path / "map.npz")
    np.save(tmp_path / "map.npy", np.array([[{}]]))
    with pytest.raises(DataError, match="map.npy"):
        fm.DenseMap.load(tmp_path / "map.npy")


def test_a_regression_of_centred_meshes_is_taken_whatever_its_rows_add_up_to(tmp_path, rng):
    matrix = rng.normal(size=(9, 4)).astype(np.float32)
    for centre in (np.arange(4), np.array([2]), 2):
        dense = fm.DenseMap.from_regression(matrix, centre)
        middle = TETRAHEDRON[np.atleast_1d(centre)].mean(axis=0)
        expected = matrix @ (TETRAHEDRON - middle) + middle
        np.testing.assert_allclose(dense(TETRAHEDRON), expected, atol=1e-5)
        np.testing.assert_allclose(dense(TETRAHEDRON + 4000) - 4000, expected, atol=2e-3)
    np.savez(tmp_path / "map.npz", matrix=matrix, centre=2)
    np.testing.assert_array_equal(fm.DenseMap.load(tmp_path / "map.npz").matrix, dense.matrix)
    dense.save(tmp_path / "map.npz")
    np.testing.assert_array_equal(fm.DenseMap.load(tmp_path / "map.npz").matrix, dense.matrix)


def test_the_offset_of_a_regression_turns_and_grows_with_the_face(tmp_path, rng):
    matrix, offset = rng.normal(size=(9, 4)).astype(np.float32), rng.normal(size=(9, 3))
    parts = {"centre": np.arange(4), "offset": offset, "canonical": TETRAHEDRON}
    dense = fm.DenseMap.from_regression(matrix, **parts)
    middle = TETRAHEDRON.mean(axis=0)
    expected = matrix @ (TETRAHEDRON - middle) + offset
    np.testing.assert_allclose(dense(TETRAHEDRON), expected + middle, atol=1e-5)
    turn = 25 * rotation_from_pose([10, 20, 30]).T
    face = (TETRAHEDRON - middle) @ turn + (300, 200, 0)
    np.testing.assert_allclose(dense(face), expected @ turn + (300, 200, 0), atol=1e-3)
    np.savez(tmp_path / "map.npz", matrix=matrix, **parts)
    np.testing.assert_array_equal(fm.DenseMap.load(tmp_path / "map.npz").matrix, dense.matrix)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"centre": [0, 0]}, r"centre: expected different vertices \(n,\) of 0 to 3"),
        ({"centre": [4]}, "centre: expected different vertices"),
        ({"centre": [0.5]}, "centre: expected different vertices"),
        ({"centre": [0], "offset": np.ones((2, 3))}, "offset and canonical go together"),
        ({"centre": [0], "canonical": TETRAHEDRON}, "offset and canonical go together"),
        ({"centre": [0], "offset": np.ones(2), "canonical": TETRAHEDRON}, r"offset: expected finite numbers \(2, 3\)"),
        ({"centre": [0], "offset": np.ones((2, 3)), "canonical": TETRAHEDRON * np.nan}, r"canonical: .*\(4, 3\)"),
        ({"centre": [0], "offset": np.ones((2, 3)), "canonical": TETRAHEDRON * (1, 1, 0)}, "lie flat"),
    ],
)
def test_a_regression_whose_parts_do_not_fit_is_refused(tmp_path, parts, message):
    matrix = np.ones((2, 4))
    with pytest.raises(InputError, match=message):
        fm.DenseMap.from_regression(matrix, **parts)
    np.savez(tmp_path / "map.npz", matrix=matrix, **parts)
    with pytest.raises(DataError, match=message):
        fm.DenseMap.load(tmp_path / "map.npz")


def test_a_file_of_a_map_holds_nothing_whose_meaning_is_not_known(tmp_path):
    for more in ("offset", "intercept"):
        np.savez(tmp_path / "map.npz", matrix=np.full((2, 2), 0.5), **{more: np.ones((2, 3))})
        with pytest.raises(DataError, match=f"expected beside 'matrix' nothing, or 'centre' .*, got {more}"):
            fm.DenseMap.load(tmp_path / "map.npz")
    with pytest.raises(InputError, match="say on which vertices: DenseMap.from_regression"):
        fm.DenseMap(np.full((2, 2), 0.4))


def test_a_map_that_is_fitted_to_faces_gives_their_denser_meshes(rng):
    true = rng.uniform(0, 1, (9, 4))
    true /= true.sum(axis=1, keepdims=True)
    coarse = rng.normal(size=(30, 4, 3)) * 40 + rng.uniform(0, 1000, (30, 1, 3))
    found = fm.fit_dense_map(coarse, true @ coarse, ridge=1e-9)
    np.testing.assert_allclose(found(coarse), true @ coarse, atol=0.02)
    np.testing.assert_allclose(found.matrix.sum(axis=1), 1, atol=1e-6)
    with pytest.raises(InputError, match="ridge above 0"):
        fm.fit_dense_map(coarse, coarse, ridge=0)
    with pytest.raises(InputError, match=r"got \(30, 4, 3\), \(29, 4, 3\)"):
        fm.fit_dense_map(coarse, coarse[1:])


# files


def test_an_obj_file_gives_back_the_mesh(tmp_path, rng):
    path = tmp_path / "face.obj"
    vertices = rng.normal(0, 100, (4, 3)).astype(np.float32)
    colors = rng.integers(0, 256, (4, 3), dtype=np.uint8)
    uv = rng.uniform(0, 1, (4, 2))
    fm.write_obj(path, vertices, SIDES, colors, uv)
    back = fm.read_obj(path)
    np.testing.assert_array_equal(back.vertices, vertices)
    np.testing.assert_array_equal(back.triangles, SIDES)
    np.testing.assert_array_equal(back.colors, colors)
    np.testing.assert_allclose(back.uv, uv, atol=1e-6)
    fm.write_obj(path, vertices, SIDES)
    plain = fm.read_obj(path)
    assert plain.colors is None and plain.uv is None
    assert sorted(p.name for p in tmp_path.iterdir()) == ["face.obj"]


def test_obj_files_of_others_are_read(tmp_path):
    path = tmp_path / "other.obj"
    path.write_text(
        "# a square\no square\nv 0 0 0\nv 1 0 0 # corner\nv 1 1 0\nv 0 1 0\nvn 0 0 1\n"
        "vt 0 0\nusemtl skin\nf -4//1 -3//1 -2//1 -1//1\n"
    )
    found = fm.read_obj(path)
    assert found.triangles.tolist() == [[0, 1, 2], [0, 2, 3]]
    assert found.uv is None
    for text, line in (("v 0 0\n", 1), ("v 0 0 x\n", 1), ("v 0 0 0\nf 1 2 3\n", 2), ("v 0 0 0\nf 1 1\n", 2)):
        path.write_text(text)
        with pytest.raises(DataError, match=rf"other.obj:{line}: "):
            fm.read_obj(path)
    path.write_text("v 0 0 0\n")
    with pytest.raises(DataError, match="vertices and faces, got 1 and 0"):
        fm.read_obj(path)
    with pytest.raises(DataError, match="none.obj"):
        fm.read_obj(tmp_path / "none.obj")


def test_a_ply_file_holds_vertices_colours_and_triangles(tmp_path):
    path = tmp_path / "face.ply"
    colors = np.arange(12, dtype=np.uint8).reshape(4, 3)
    fm.write_ply(path, TETRAHEDRON, SIDES, colors)
    head, body = path.read_text().split("end_header\n")
    assert head.splitlines()[:2] == ["ply", "format ascii 1.0"]
    assert "element vertex 4" in head and "element face 4" in head and "property uchar red" in head
    rows = [[float(word) for word in line.split()] for line in body.splitlines()]
    np.testing.assert_array_equal(rows[:4], np.concatenate([TETRAHEDRON, colors], axis=1))
    np.testing.assert_array_equal(rows[4:], np.concatenate([np.full((4, 1), 3), SIDES], axis=1))


def test_an_exported_face_stands_upright_in_the_colours_of_the_photo(tmp_path):
    photo = np.zeros((120, 100, 3), np.uint8)
    photo[:60], photo[60:] = (200, 10, 20), (10, 20, 200)
    mesh = in_photo(TETRAHEDRON)
    fm.export_mesh(tmp_path / "face.obj", mesh, topology(), photo)
    found = fm.read_obj(tmp_path / "face.obj")
    np.testing.assert_allclose(found.vertices, 20 * (TETRAHEDRON - TETRAHEDRON.mean(axis=0)), atol=1e-4)
    assert found.colors[2].tolist() == [200, 10, 20] and found.colors[0].tolist() == [10, 20, 200]
    fm.export_mesh(tmp_path / "face.PLY", mesh, topology())
    assert (tmp_path / "face.PLY").read_text().startswith("ply\n")
    with pytest.raises(InputError, match=r"\.obj or \.ply"):
        fm.export_mesh(tmp_path / "face.stl", mesh, topology())


def test_colours_lie_between_those_of_neighbouring_pixels_and_stop_at_the_border():
    photo = np.array([[[0, 0, 0], [100, 50, 200]]], np.uint8)
    places = np.array([[0.5, 0.5], [1.0, 0.5], [1.5, 0.5], [-9, -9], [50, 50]])
    found = fm.vertex_colors(photo, places)
    assert found.tolist() == [[0, 0, 0], [50, 25, 100], [100, 50, 200], [0, 0, 0], [100, 50, 200]]


# topologies of others


def small_model():
    """A face of 3x4 vertices in a model of 14, two of them elsewhere; its nose is vertex 6 of the model."""
    y, x = np.divmod(np.arange(12), 3)
    face = np.stack([x - 1.0, 1.5 - y, np.where((x == 1) & (y == 2), 1.0, 0.0)], axis=1)
    shape = np.concatenate([[[5, 5, 5]], face[:5], [[7, 7, 7]], face[5:]])
    place = np.delete(np.arange(14), [0, 6])
    corner = np.flatnonzero((x < 2) & (y < 3))
    triangles = np.concatenate(
        [np.stack([corner, corner + 3, corner + 4], axis=1), np.stack([corner, corner + 4, corner + 1], axis=1)]
    )
    return shape, place, triangles


def test_a_subset_of_a_model_keeps_its_shape_and_both_ways_of_numbering_triangles_agree():
    shape, place, triangles = small_model()
    nose = int(place[7])
    own = fm.subset_topology("own", shape, triangles, place, nose_tip=nose, parts={"top": place[:6].tolist()})
    np.testing.assert_array_equal(own.canonical, shape[place].astype(np.float32))
    assert own.nose_tip == 7
    everywhere = np.concatenate([place[triangles], [[0, 1, 6]]])
    same = fm.subset_topology("own", shape, everywhere, place, triangles_of="model", nose_tip=nose)
    np.testing.assert_array_equal(same.triangles, own.triangles)
    assert own.part_triangles("top").sum() == 4
    np.testing.assert_array_equal(own.flip_index, np.arange(12).reshape(4, 3)[:, ::-1].ravel())
    # Triangles that look inwards are turned round.
    turned = fm.subset_topology("own", shape, triangles[:, ::-1], place, nose_tip=nose)
    assert (fm.signed_area(in_photo(turned.canonical), turned.triangles) > 0).all()


def test_an_outline_takes_the_triangles_within_it():
    _, _, triangles = small_model()
    inside = fm.triangles_inside(triangles, [0, 3, 4, 1])
    assert set(np.unique(triangles[inside])) == {0, 1, 3, 4} and inside.sum() == 2
    np.testing.assert_array_equal(fm.triangles_inside(triangles, [1, 4, 3, 0]), inside)
    with pytest.raises(InputError, match="got one from vertex 4 to 2"):
        fm.triangles_inside(triangles, [0, 3, 4, 2])
    with pytest.raises(InputError, match="parts the mesh in two"):
        fm.triangles_inside(triangles, [0, 3])


def test_an_asymmetric_face_has_no_mirror_image():
    shape, place, triangles = small_model()
    shape[1] += (0.3, 0, 0)
    assert fm.subset_topology("own", shape, triangles, place, nose_tip=int(place[7])).flip_index is None


def points68(place):
    """68 points of the small model: eyes in the second row, nose 7, mouth in the last."""
    rows = np.full(68, place[7])
    rows[36:42], rows[42:48], rows[48], rows[54] = place[3], place[5], place[9], place[11]
    return rows


def test_68_points_are_translated_to_the_subset_and_give_the_nose():
    shape, place, triangles = small_model()
    own = fm.subset_topology("own", shape, triangles, place, points={"68": points68(place)})
    assert own.nose_tip == 7
    np.testing.assert_allclose(own.points_of(own.canonical, "5"), own.canonical[[3, 5, 7, 9, 11]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.update(shape=a["shape"] * (1, 1, -1)), "nose behind the face"),
        (lambda a: a.update(shape=a["shape"] * (-1, 1, 1)), "left eye right of the right"),
        (lambda a: a.update(shape=a["shape"] * (1, -1, 1)), "eyes below the mouth"),
        (lambda a: a.update(triangles=a["triangles"] + 1), "do they count from 1"),
        (lambda a: a.update(triangles_of="all"), "'subset' or 'model'"),
        (lambda a: a.update(vertices=np.zeros(12, int)), "different ones"),
        (lambda a: a.update(vertices=a["vertices"][:-1]), "expected 0 to 10, got 0 to 11"),
        (lambda a: a["points"]["68"].__setitem__(0, 6), r"vertices of the subset, got \[6\]"),
        (lambda a: a.update(points={}), "expected nose_tip, or the 68 points"),
        (lambda a: a.update(parts={"ear": [1, 2]}), "triangles in the ear, got none"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(change, message):
    shape, place, triangles = small_model()
    arguments = {"shape": shape, "triangles": triangles, "vertices": place, "points": {"68": points68(place)}}
    change(arguments)
    with pytest.raises(InputError, match=message):
        fm.subset_topology("own", **arguments)


# results


def test_the_mesh_of_faces_gives_their_points_and_pose():
    shipped = fm.topology_468()
    mesh = canonical_in_photo((15, -5, 3))
    faces = Faces([[20, 10, 180, 190]], [0.9], mesh=[mesh], size_hw=(200, 200))
    np.testing.assert_allclose(fm.pose_from_mesh(faces.mesh, shipped)[0], [[15, -5, 3]], atol=1e-3)
    with_points = faces.with_(landmarks=shipped.points_of(faces.mesh, "68")[..., :2], scheme="68")
    np.testing.assert_allclose(with_points.alignment_points, shipped.points_of(faces.mesh, "5")[..., :2], atol=1e-4)


def test_a_mirrored_mesh_put_in_order_is_the_mesh_of_the_mirrored_face():
    shipped = fm.topology_468()
    mesh = canonical_in_photo((25, 10, -8))
    mirrored = (mesh * (-1, 1, 1) + (200, 0, 0))[shipped.flip_index]
    np.testing.assert_allclose(fm.pose_from_mesh(mirrored[None], shipped)[0], [[-25, 10, 8]], atol=1e-3)


def test_the_topology_is_a_file_of_the_package_without_pickled_objects():
    from gluonface.mesh import topology as module

    with zipfile.ZipFile(module._SHIPPED) as archive:
        assert archive.testzip() is None
    assert module._SHIPPED.stat().st_size < 20_000
