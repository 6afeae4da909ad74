"""Drawing: on a copy, in the right place, in the right colour, as thick as the photo asks for."""

from __future__ import annotations

import numpy as np
import pytest

from gluonface import viz
from gluonface.errors import InputError
from gluonface.faces import SCHEMES, Faces
from gluonface.mesh import PARTS, MeshTopology, rasterize, segment_parts, topology_468
from gluonface.pose import rotation_from_pose


def one_face(size_hw, box, **parts) -> Faces:
    return Faces([box], [0.87], size_hw=size_hw, **parts)


def grey(height, width) -> np.ndarray:
    return np.full((height, width, 3), 90, np.uint8)


def changed(picture) -> np.ndarray:
    return (picture != 90).any(axis=2)


def test_the_photo_itself_is_not_changed():
    image = grey(200, 200)
    picture = viz.draw_faces(image, one_face((200, 200), [50, 60, 150, 160]))
    assert (image == 90).all()
    assert picture.shape == image.shape
    assert picture.dtype == np.uint8
    assert changed(picture).any()


def test_no_face_draws_nothing():
    assert not changed(viz.draw_faces(grey(50, 60), Faces.empty((50, 60)))).any()


def test_the_line_lies_on_the_edge_of_the_box():
    picture = viz.draw_faces(
        grey(200, 300), one_face((200, 300), [50.5, 60.5, 150.5, 160.5]), scores=False, thickness=1
    )
    assert (picture[60, 60:140] == viz.BOX_COLOR).all()
    assert (picture[70:150, 150] == viz.BOX_COLOR).all()
    assert not changed(picture)[70:150, 60:140].any()
    assert not changed(picture)[:58].any()


def test_every_point_has_its_colour_where_it_lies():
    points = np.array([[40, 40], [80, 40], [60, 60], [45, 80], [75, 80]]) + 0.5
    picture = viz.draw_faces(
        grey(120, 120), one_face((120, 120), [20, 20, 100, 100], landmarks5=[points]), scores=False
    )
    for (x, y), color in zip(points.astype(int), viz.POINT_COLORS):
        assert tuple(picture[y, x]) == color
    assert len(set(viz.POINT_COLORS)) == 5
    without = viz.draw_faces(
        grey(120, 120), one_face((120, 120), [20, 20, 100, 100], landmarks5=[points]), points=False
    )
    assert not changed(without)[30:90, 30:90].any()


def test_dense_landmarks_are_drawn_too():
    points = np.stack([np.linspace(30, 90, 68), np.full(68, 60.5)], axis=-1)
    faces = one_face((120, 120), [20, 20, 100, 100], landmarks=[points], scheme="68")
    assert changed(viz.draw_faces(grey(120, 120), faces, scores=False))[60, 30:90].mean() > 0.9


@pytest.mark.parametrize("long_side", [200, 640, 4000])
def test_lines_and_letters_grow_with_the_photo(long_side):
    size = (long_side * 3 // 4, long_side)
    box = np.array([0.3, 0.3, 0.6, 0.7]) * [size[1], size[0], size[1], size[0]]
    picture = viz.draw_faces(grey(*size), one_face(size, box))
    line = changed(picture)[:, : round(box[0] + 20 * long_side / 640)][round((box[1] + box[3]) / 2)].sum()
    assert max(1, long_side / 1300) <= line <= 2 + long_side / 500
    letters = np.flatnonzero(changed(picture)[: round(box[1]) - 2].any(axis=1))
    assert max(7, 0.011 * long_side) <= len(letters) <= 0.08 * long_side + 8


def test_a_small_face_is_not_covered_by_its_box_and_score():
    picture = viz.draw_faces(grey(2000, 3000), one_face((2000, 3000), [500, 500, 530, 535]))
    assert not changed(picture)[504:531, 504:526].any()


def test_a_score_at_the_border_stays_inside_the_photo():
    for box in ([0, 0, 80, 80], [120, 100, 200, 200], [0, 0, 200, 200]):
        with_score = viz.draw_faces(grey(200, 200), one_face((200, 200), box))
        without = viz.draw_faces(grey(200, 200), one_face((200, 200), box), scores=False)
        assert (with_score != without).any(axis=2).sum() > 100


def test_labels_take_the_place_of_scores():
    faces = one_face((200, 200), [50, 60, 150, 160])
    assert (viz.draw_faces(grey(200, 200), faces, labels=["Ada"]) != viz.draw_faces(grey(200, 200), faces)).any()
    with pytest.raises(InputError, match="expected 1 labels, got 2"):
        viz.draw_faces(grey(200, 200), faces, labels=["a", "b"])


def test_points_far_outside_do_no_harm():
    points = [[-1e9, 5], [1e9, 5], [5, -1e30], [5, 1e30], [5, 5]]
    viz.draw_faces(grey(20, 20), one_face((20, 20), [0, 0, 20, 20], landmarks5=[points]))


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 500), (500, 1)])
def test_degenerate_photos_are_drawn_on(size_hw):
    viz.draw_faces(grey(*size_hw), one_face(size_hw, [0, 0, size_hw[1], size_hw[0]], landmarks5=np.zeros((1, 5, 2))))


def test_faces_of_another_photo_are_refused():
    with pytest.raises(InputError, match="faces of an image of size"):
        viz.draw_faces(grey(20, 30), Faces.empty((30, 20)))
    with pytest.raises(InputError, match="RGB image"):
        viz.draw_faces(np.zeros((20, 30)), Faces.empty((20, 30)))


def test_a_contact_sheet_shows_every_image_whole_and_centred():
    images = [np.full((40, 20, 3), 10, np.uint8), np.full((20, 40, 3), 20, np.uint8), np.full((5, 5, 3), 30, np.uint8)]
    sheet = viz.contact_sheet(images, (32, 32), columns=2, gap=2)
    assert sheet.shape == (70, 70, 3)
    tile = sheet[2:34, 2:34]
    assert (tile[:, 8:24] == 10).all()
    assert (tile[:, :8] == 255).all()
    assert (sheet[2 + 8 : 2 + 24, 36:68] == 20).all()
    assert (sheet[36:68, 2:34] == 30).all()
    assert (sheet[36:68, 36:68] == 255).all()
    with pytest.raises(InputError, match="at least one image"):
        viz.contact_sheet([])


def test_dense_landmarks_are_drawn_in_the_colours_of_their_parts_instead_of_the_five_points():
    scheme = SCHEMES["19"]
    points = np.stack([np.arange(19) * 9 + 10, np.arange(19) * 9 + 10], axis=-1) + 0.5
    face = one_face(
        (200, 200), [5, 5, 195, 195], landmarks=[points], landmarks5=[points[:5] + np.array([60, 0])], scheme="19"
    )
    picture = viz.draw_faces(grey(200, 200), face, scores=False)
    for group, rows in scheme.groups.items():
        for row in rows:
            x, y = points[row].astype(int)
            assert tuple(picture[y, x]) == viz.GROUP_COLORS[group]
    assert not changed(picture)[20:50, 75:130].any()  # where the five points would be
    # Lines along contours lie between points of one contour and not between contours.
    between = (points[0] + points[1]) / 2
    assert changed(picture)[int(between[1]), int(between[0])]
    apart = (points[14] + points[15]) / 2
    assert not changed(picture)[int(apart[1]), int(apart[0])]


def test_a_small_face_has_dots_without_lines():
    points = np.stack([np.arange(19) * 2 + 10, np.arange(19) * 2 + 10], axis=-1) + 0.5
    face = one_face((80, 80), [8, 8, 50, 50], landmarks=[points], scheme="19")
    lines = changed(viz.draw_faces(grey(80, 80), face, scores=False, points=True))
    assert lines[10, 10] and lines[46, 46]


def test_landmarks_of_a_scheme_without_facts_are_white_dots():
    points = np.full((1, 468, 2), 40.5)
    face = one_face((80, 80), [8, 8, 70, 70], landmarks=points, scheme="468")
    assert tuple(viz.draw_faces(grey(80, 80), face, scores=False)[40, 40]) == (255, 255, 255)


# head pose


def posed(pose, size_hw=(240, 240), box=(60, 60, 180, 180), **parts) -> Faces:
    return one_face(size_hw, list(box), pose=[pose], **parts)


def centre_of(picture, color) -> np.ndarray:
    """x, y: mean place of the pixels of exactly that colour."""
    rows, columns = np.nonzero((picture == color).all(axis=2))
    assert len(rows)
    return np.array([columns.mean(), rows.mean()]) + 0.5


def test_the_axes_of_a_face_that_looks_at_the_viewer_point_right_up_and_at_the_viewer():
    picture = viz.draw_faces(grey(240, 240), posed([0, 0, 0]), scores=False)
    x, y, z = (centre_of(picture, color) - 120 for color in viz.AXIS_COLORS)
    assert x[0] > 15 and abs(x[1]) < 1
    assert y[1] < -15 and abs(y[0]) < 1
    np.testing.assert_allclose(z, 0, atol=1)


@pytest.mark.parametrize(
    ("pose", "z"), [([40, 0, 0], (-1, 0)), ([-40, 0, 0], (1, 0)), ([0, 40, 0], (0, -1)), ([0, -40, 0], (0, 1))]
)
def test_the_blue_axis_goes_where_the_nose_points(pose, z):
    picture = viz.draw_faces(grey(240, 240), posed(pose), scores=False)
    place = centre_of(picture, viz.AXIS_COLORS[2]) - 120
    assert place @ z > 8
    assert abs(place @ z[::-1]) < 1


def test_positive_roll_lets_the_red_axis_sink():
    picture = viz.draw_faces(grey(240, 240), posed([0, 0, 30]), scores=False)
    x, y = centre_of(picture, viz.AXIS_COLORS[0]) - 120
    assert np.rad2deg(np.arctan2(y, x)) == pytest.approx(30, abs=3)


@pytest.mark.parametrize("yaw", [60, -60])
def test_of_two_axes_the_nearer_one_lies_on_top(yaw):
    """At a pitch of 0 red and blue run along one line, on the same side where the head looks to the right."""
    picture = viz.draw_axes(grey(100, 100), [yaw, 0, 0], [50, 50], 40, thickness=5)
    red_is_near = yaw > 0
    assert (picture[49, 53] == viz.AXIS_COLORS[0]).all() == red_is_near


def test_axes_start_at_the_nose_that_is_drawn():
    five = np.array([[90, 90], [150, 90], [100, 130], [95, 160], [145, 160]], float)
    dense = np.full((68, 2), 200.0)
    dense[30] = [140, 100]
    color = viz.AXIS_COLORS[2]
    for parts, nose in (
        ({}, (120, 120)),
        ({"landmarks5": [five]}, (100, 130)),
        ({"landmarks5": [five], "landmarks": [dense], "scheme": "68"}, (140, 100)),
        ({"landmarks": np.full((1, 468, 2), 70.0), "scheme": "468"}, (120, 120)),
    ):
        picture = viz.draw_faces(grey(240, 240), posed([0, 0, 0], **parts), scores=False)
        np.testing.assert_allclose(centre_of(picture, color), nose, atol=1)


def test_axes_are_as_long_as_the_face_asks_for():
    lengths = []
    for side in (60, 180):
        picture = viz.draw_faces(grey(400, 400), posed([0, 0, 0], (400, 400), (100, 100, 100 + side, 100 + side)))
        columns = np.nonzero((picture == viz.AXIS_COLORS[0]).all(axis=2))[1]
        lengths.append(columns.max() - (100 + side / 2))
    assert lengths[1] == pytest.approx(3 * lengths[0], rel=0.15)
    assert 0.3 * 180 < lengths[1] < 0.55 * 180


def test_axes_can_be_left_out_and_are_not_drawn_without_a_pose():
    plain = viz.draw_faces(grey(240, 240), posed([30, 0, 0]).with_(pose=None), angles=True)
    np.testing.assert_array_equal(viz.draw_faces(grey(240, 240), posed([30, 0, 0]), pose=False), plain)
    assert (viz.draw_faces(grey(240, 240), posed([30, 0, 0])) != plain).any()


def test_angles_are_written_below_the_box_when_asked_for():
    faces = posed([30, -12, 5])
    without, written = (viz.draw_faces(grey(240, 240), faces, angles=angles) for angles in (False, True))
    rows = np.flatnonzero((without != written).any(axis=(1, 2)))
    assert rows.min() >= 180
    assert (viz.draw_faces(grey(240, 240), posed([31, -12, 5]), angles=True, pose=False)[180:] != written[180:]).any()
    nearly = viz.draw_faces(grey(240, 240), posed([-0.2, 0, 0]), pose=False, angles=True)
    np.testing.assert_array_equal(
        nearly, viz.draw_faces(grey(240, 240), posed([0, 0, 0]), pose=False, angles=True)
    )  # no "-0"


@pytest.mark.parametrize("box", [(0, 0, 240, 240), (40, 5, 200, 150), (40, 150, 200, 238)])
def test_angles_stay_inside_the_photo_and_do_not_cover_the_score(box):
    faces = posed([30, -12, 5], box=box)
    score, both = (viz.draw_faces(grey(240, 240), faces, pose=False, angles=angles) for angles in (False, True))
    neither = viz.draw_faces(grey(240, 240), faces, pose=False, scores=False)
    assert (both != score).any(axis=2).sum() > 100
    plate = (score != neither).any(axis=2)
    np.testing.assert_array_equal(both[plate], score[plate])


def test_axes_are_drawn_on_a_copy():
    image = grey(50, 50)
    assert changed(viz.draw_axes(image, [10, 20, 30], [25, 25], 20)).any()
    assert not changed(image).any()


# meshes


def canonical_mesh(pose=(0, 0, 0), scale=12.0, centre=(120, 120)) -> np.ndarray:
    """MediaPipe's canonical face, turned, in pixels of a photo."""
    upright = topology_468().canonical @ rotation_from_pose(pose).T
    return upright * (scale, -scale, -scale) + (*centre, 0)


@pytest.mark.parametrize("style", ["wireframe", "shaded", "parts"])
def test_a_mesh_is_drawn_on_a_copy_where_it_lies(style):
    photo, mesh = grey(240, 240), canonical_mesh()
    picture = viz.draw_mesh(photo, mesh[None], style=style)
    assert (photo == 90).all()
    rows, columns = np.nonzero(changed(picture))
    low, high = mesh.min(axis=0), mesh.max(axis=0)
    assert columns.min() >= low[0] - 2 and columns.max() <= high[0] + 2
    assert rows.min() >= low[1] - 2 and rows.max() <= high[1] + 2
    assert len(rows) > 500
    assert not changed(viz.draw_mesh(photo, mesh[None], style=style, alpha=0)).any()
    assert not changed(viz.draw_mesh(photo, mesh[None][:0], style=style)).any()


def test_a_surface_is_lit_from_above_and_covers_the_whole_mesh():
    picture = viz.draw_mesh(grey(240, 240), canonical_mesh()[None], style="shaded", alpha=1, color=(200, 100, 50))
    covered = rasterize(canonical_mesh(), topology_468().triangles, (240, 240)).pixels
    mask = np.zeros((240, 240), bool)
    mask[covered] = True
    np.testing.assert_array_equal(changed(picture), mask)
    forehead, under_the_brow = picture[50, 120, 0], picture[85, 94, 0]
    assert forehead > under_the_brow + 20
    assert (np.abs(picture[90, 120] / (200, 100, 50) - picture[90, 120, 0] / 200) < 0.02).all()


def test_parts_have_their_colours_and_the_skin_stays_as_it_is():
    mesh = canonical_mesh()
    picture = viz.draw_mesh(grey(240, 240), mesh[None], style="parts", alpha=1)
    labels = segment_parts(mesh[None], topology_468(), (240, 240))
    np.testing.assert_array_equal(changed(picture), labels > 0)
    for part, color in enumerate(viz.PART_COLORS, start=1):
        assert (picture[labels == part] == color).all()
    assert len(set(viz.PART_COLORS)) == len(PARTS)


def test_wires_that_are_seen_from_inside_or_lie_behind_a_surface_are_hidden():
    straight, behind = (
        changed(viz.draw_mesh(grey(240, 240), canonical_mesh(pose)[None], thickness=1)).sum()
        for pose in ((0, 0, 0), (180, 0, 0))
    )
    assert straight > 2000
    assert behind < straight / 20  # the folds of nose and lips show
    # A wall of two triangles in front of a smaller one hides its sides.
    wall = np.array([[10, 10, 0], [10, 90, 0], [90, 90, 0], [90, 10, 0], [40, 40, 50], [40, 60, 50], [60, 60, 50]])
    shape = wall * (1.0, -1.0, -1.0)
    both = MeshTopology("wall", [[0, 1, 2], [0, 2, 3], [4, 5, 6]], shape, 0)
    picture = changed(viz.draw_mesh(grey(100, 100), wall[None].astype(float), both, thickness=1))
    assert picture[9:11, 20:80].any(axis=0).all() and not picture[45:55, 38:42].any()
    wall[4:, 2] = -50
    assert changed(viz.draw_mesh(grey(100, 100), wall[None].astype(float), both, thickness=1))[45:55, 38:42].any()


def test_a_larger_face_is_drawn_over_a_smaller_one():
    large, small = canonical_mesh(), canonical_mesh(scale=4.0)
    alone = viz.draw_mesh(grey(240, 240), large[None], style="shaded", alpha=1)
    for pair in ((large, small), (small, large)):
        np.testing.assert_array_equal(viz.draw_mesh(grey(240, 240), np.stack(pair), style="shaded", alpha=1), alone)


def test_what_cannot_be_drawn_as_a_mesh_is_refused():
    mesh = canonical_mesh()[None]
    for arguments, message in (
        ((grey(20, 20), None), "got none; a detector with a mesh head"),
        ((grey(20, 20), mesh[0]), r"meshes of shape \(n, 468, 3\)"),
        ((grey(20, 20), mesh[:, :9]), r"shape \(..., 468, 3\), got \(1, 9, 3\)"),
        ((grey(20, 20)[..., 0], mesh), "RGB image"),
        ((grey(20, 20), mesh, None, "wires"), "a style of wireframe, shaded, parts, got 'wires'"),
    ):
        with pytest.raises(InputError, match=message):
            viz.draw_mesh(*arguments)
    with pytest.raises(InputError, match="alpha between 0 and 1, got 2"):
        viz.draw_mesh(grey(20, 20), mesh, alpha=2)
