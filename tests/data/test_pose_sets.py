"""The readers of head pose sets, on tiny layouts drawn as the official ones."""

import itertools

import numpy as np
import pytest

from gluonface.data import read_300w_lp, read_aflw2000, read_biwi, read_jsonl, read_widerpose, write_jsonl
from gluonface.data.biwi import HEAD_MM, SEQUENCES, SPLITS, pose_of_rotation
from gluonface.data.pose_para import pose_of, real_array
from gluonface.data.widerface_files import add_five_points, read_retinaface_labels, read_widerface_txt
from gluonface.data.widerpose import read_pose_labels
from gluonface.errors import DataError, ImageError
from gluonface.face_template import FACE_68
from gluonface.faces import SCHEMES
from gluonface.image import save_image
from gluonface.pose import fit_pose, geodesic_degrees, rotation_from_pose

SIZE_HW = (60, 80)
POSES = np.array([[0, 0, 0], [30, 0, 0], [0, 20, 0], [0, 0, 25], [-50, 15, -30], [70, -20, 40]], float)


def photo(path, size_hw=SIZE_HW):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_image(path, np.full((*size_hw, 3), 90, np.uint8))


def save_mat(path, **variables):
    pytest.importorskip("scipy.io").savemat(path, variables)


def parameters(pose):
    """Pose_Para of yaw, pitch, roll in degrees."""
    yaw, pitch, roll = np.deg2rad(pose)
    return np.array([[pitch, yaw, roll, 40, 30, 0, 1e-3]])


def face68(pose, size=20.0):
    """68 points (68, 2) of a head of that pose, round (40, 30) in continuous pixels."""
    turned = np.array(FACE_68) @ rotation_from_pose(np.asarray(pose, float)).T
    return turned[:, :2] * (size, -size) + (40, 30)


def written_and_read_back(samples, root, tmp_path):
    write_jsonl(tmp_path / "back.jsonl", samples)
    back = read_jsonl(tmp_path / "back.jsonl", images=root)
    assert [s.image_path for s in back] == [s.image_path for s in samples]
    for before, after in zip(samples, back, strict=True):
        np.testing.assert_allclose(after.faces.pose, before.faces.pose, atol=0.006)
        np.testing.assert_allclose(after.faces.boxes, before.faces.boxes, atol=0.006)
        assert after.faces.attributes == before.faces.attributes


# AFLW2000-3D ---------------------------------------------------------------------------------------------------------


def aflw2000_mat(pose, **changes):
    """As MATLAB has it: pixels from 1, y down, points in columns; pt2d and roi are there to be left alone."""
    points = np.concatenate([face68(pose) + 0.5, np.ones((68, 1))], axis=1).T
    pt2d = np.full((2, 21), -1.0)
    return {"Pose_Para": parameters(pose), "pt3d_68": points, "pt2d": pt2d, "roi": np.array([[1, 2, 3, 4]]), **changes}


@pytest.fixture
def aflw2000(tmp_path):
    """A function that writes photos of these poses, and changes of the last one's variables."""

    def save(poses, **changes):
        root = tmp_path / "AFLW2000"
        for number, pose in enumerate(poses, start=2):
            photo(root / f"image{number:05d}.jpg")
            mat = aflw2000_mat(pose, **(changes if number == len(poses) + 1 else {}))
            save_mat(root / f"image{number:05d}.mat", **{key: value for key, value in mat.items() if value is not None})
        return root

    return save


def test_aflw2000_gives_pose_points_and_the_box_round_them(aflw2000, tmp_path):
    root = aflw2000(POSES)
    samples = read_aflw2000(root)
    assert [s.name for s in samples] == [f"image{number:05d}.jpg" for number in range(2, 8)]
    for sample, pose in zip(samples, POSES, strict=True):
        faces, points = sample.faces, face68(pose)
        assert sample.size_hw == SIZE_HW and sample.source == "aflw2000" and faces.scheme == "68"
        np.testing.assert_allclose(faces.pose, pose[None], atol=1e-4)
        np.testing.assert_allclose(faces.landmarks[0], points, atol=1e-4)
        np.testing.assert_allclose(faces.boxes[0], [*points.min(axis=0), *points.max(axis=0)], atol=1e-4)
        np.testing.assert_allclose(faces.landmarks5, SCHEMES["68"].five_points(points)[None], atol=1e-4)
        assert faces.box_from == ["landmarks"] and not faces.ignore.any()
    written_and_read_back(samples, root, tmp_path)


def test_the_pose_of_aflw2000_is_that_of_its_points(aflw2000):
    samples = read_aflw2000(aflw2000(POSES))
    fitted, _ = fit_pose(np.concatenate([s.faces.landmarks for s in samples]), np.array(FACE_68))
    np.testing.assert_allclose(fitted, POSES, atol=0.01)


def test_the_protocol_leaves_out_photos_with_an_angle_beyond_99_degrees(aflw2000):
    poses = [[98.9, 0, 0], [-99.1, 0, 0], [0, 120, 0], [0, 0, -179], [0, -98, 98]]
    root = aflw2000(poses)
    assert [s.name for s in read_aflw2000(root, max_angle=99)] == ["image00002.jpg", "image00006.jpg"]
    assert len(read_aflw2000(root)) == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"Pose_Para": None}, "the variables Pose_Para are missing"),
        (
            {"Pose_Para": np.zeros((1, 3))},
            r"expected Pose_Para, numbers of shape \(1, 7\), got float64 of shape \(1, 3\)",
        ),
        ({"Pose_Para": np.full((1, 7), np.nan)}, "expected Pose_Para, finite numbers, got 7 others"),
        ({"Pose_Para": "1234567"}, "expected Pose_Para, numbers of shape"),
        (
            {"pt3d_68": np.zeros((2, 68))},
            r"expected pt3d_68, numbers of shape \(3, 68\), got float64 of shape \(2, 68\)",
        ),
        ({"pt3d_68": np.full((3, 68), np.inf)}, "expected pt3d_68, finite numbers, got 204 others"),
    ],
)
def test_a_wrong_annotation_of_aflw2000_is_named(aflw2000, changes, message):
    root = aflw2000(POSES[:2], **changes)
    with pytest.raises(DataError, match=rf"image00003\.mat: {message}"):
        read_aflw2000(root)


def test_missing_and_damaged_files_of_aflw2000_are_named_unless_a_part_is_wanted(aflw2000, tmp_path):
    root = aflw2000(POSES[:3])
    (root / "image00003.mat").write_text("no matlab file, but text that is long enough to have a header" * 9)
    with pytest.raises(DataError, match=r"image00003\.mat: not a MATLAB file of version 5"):
        read_aflw2000(root)
    (root / "image00003.mat").unlink()
    with pytest.raises(DataError, match=r"image00003\.mat: cannot read the annotation file"):
        read_aflw2000(root)
    (root / "image00004.jpg").unlink()
    assert [s.name for s in read_aflw2000(root, partial=True)] == ["image00002.jpg"]
    (root / "image00003.jpg").unlink()
    with pytest.raises(DataError, match=r"image00004\.mat: the photo .*image00004\.jpg is missing"):
        read_aflw2000(root)
    (root / "image00004.jpg").write_text("no image")
    with pytest.raises(ImageError, match=r"image00004\.jpg"):
        read_aflw2000(root)
    with pytest.raises(DataError, match=r"expected photos image\*\.jpg with annotations image\*\.mat, found none"):
        read_aflw2000(tmp_path)


def test_pose_para_is_pitch_yaw_roll_in_radians():
    np.testing.assert_allclose(pose_of(np.array([[0.1, 0.2, -0.3, 9, 9, 9, 9]]), "x"), np.rad2deg([0.2, 0.1, -0.3]))


def test_an_object_of_a_mat_file_is_no_number():
    with pytest.raises(DataError, match="x: expected y, numbers of shape"):
        real_array(np.array([[None] * 7], object), (1, 7), "x", "y")


# 300W-LP -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def w300lp(tmp_path):
    """One photo a folder; AFW and HELEN_Flip have points of their own, AFW_Flip those of its twin, IBUG pt2d alone."""
    root = tmp_path / "300W_LP"
    for part in ("AFW", "HELEN", "IBUG", "LFPW", "AFW_Flip", "HELEN_Flip", "IBUG_Flip", "LFPW_Flip"):
        name, sign = part.removesuffix("_Flip") + "_1_0", -1 if part.endswith("_Flip") else 1
        photo(root / part / f"{name}.jpg")
        pt2d = face68([sign * 50, 10, sign * 20]).T + 0.5
        save_mat(root / part / f"{name}.mat", Pose_Para=parameters([sign * 50, 10, sign * 20]), pt2d=pt2d)
    for part, pose in (("AFW", [50, 10, 20]), ("HELEN_Flip", [-50, 10, -20])):
        (root / "landmarks" / part).mkdir(parents=True)
        points = {"pts_3d": face68(pose) + 0.5 + 1, "pts_2d": face68(pose) + 0.5 + 2}
        save_mat(root / "landmarks" / part / f"{part.removesuffix('_Flip')}_1_0_pts.mat", **points)
    return root


def test_300w_lp_gives_each_folder_with_its_pose(w300lp, tmp_path):
    samples = read_300w_lp(w300lp)
    parts = ["AFW", "HELEN", "IBUG", "LFPW"]
    assert [s.name for s in samples] == [f"{p}/{p}_1_0.jpg" for p in parts] + [f"{p}_Flip/{p}_1_0.jpg" for p in parts]
    assert {s.source for s in samples} == {"300w_lp"} and {s.faces.scheme for s in samples} == {"68"}
    poses = np.concatenate([s.faces.pose for s in samples])
    np.testing.assert_allclose(poses, [[50, 10, 20]] * 4 + [[-50, 10, -20]] * 4, atol=1e-4)
    assert [s.name for s in read_300w_lp(w300lp, "unflipped")] == [s.name for s in samples[:4]]
    written_and_read_back(samples, w300lp, tmp_path)


def test_points_of_300w_lp_come_from_their_own_file_then_the_twins_then_pt2d(w300lp):
    for kind, shift in (("3d", 1), ("2d", 2)):
        afw, _, ibug, _, afw_flip, helen_flip, *_ = (s.faces for s in read_300w_lp(w300lp, points=kind))
        np.testing.assert_allclose(afw.landmarks[0], face68([50, 10, 20]) + shift, atol=1e-4)
        np.testing.assert_allclose(helen_flip.landmarks[0], face68([-50, 10, -20]) + shift, atol=1e-4)
        np.testing.assert_allclose(ibug.landmarks[0], face68([50, 10, 20]), atol=1e-4)
        mirrored = afw.landmarks[0][SCHEMES["68"].flip_index] * (-1, 1) + (SIZE_HW[1], 0)
        np.testing.assert_allclose(afw_flip.landmarks[0], mirrored, atol=1e-4)


def test_large_angles_of_300w_lp_are_left_out_on_wish(w300lp):
    save_mat(w300lp / "IBUG/IBUG_1_0.mat", Pose_Para=parameters([0, 0, 100]), pt2d=face68([0, 0, 0]).T)
    assert [s.name[:4] for s in read_300w_lp(w300lp, "unflipped", max_angle=99)] == ["AFW/", "HELE", "LFPW"]


def test_what_is_wrong_in_300w_lp_is_named(w300lp, tmp_path):
    save_mat(w300lp / "landmarks/AFW/AFW_1_0_pts.mat", pts_3d=np.zeros((68, 3)), pts_2d=np.full((68, 2), np.nan))
    with pytest.raises(DataError, match=r"landmarks/AFW/AFW_1_0_pts\.mat: expected pts_3d, numbers of shape \(68, 2\)"):
        read_300w_lp(w300lp)
    with pytest.raises(DataError, match=r"AFW_1_0_pts\.mat: expected pts_2d, finite numbers, got 136 others"):
        read_300w_lp(w300lp, points="2d")
    (w300lp / "landmarks/AFW/AFW_1_0_pts.mat").unlink()
    save_mat(w300lp / "AFW/AFW_1_0.mat", Pose_Para=parameters([0, 0, 0]))
    with pytest.raises(DataError, match=r"AFW/AFW_1_0\.mat: has no pt2d, and .*AFW_1_0_pts\.mat is missing"):
        read_300w_lp(w300lp)
    (w300lp / "AFW/AFW_1_0.mat").unlink()
    with pytest.raises(DataError, match=r"AFW/AFW_1_0\.mat: cannot read the annotation file"):
        read_300w_lp(w300lp)
    (w300lp / "AFW/AFW_1_0.jpg").rename(w300lp / "HELEN/no_annotation.jpg")
    (w300lp / "AFW").rename(w300lp / "gone")
    assert [s.name[:4] for s in read_300w_lp(w300lp, "unflipped", partial=True)] == ["HELE", "IBUG", "LFPW"]
    with pytest.raises(DataError, match="split must be one of all, unflipped, got 'train'"):
        read_300w_lp(w300lp, "train")
    with pytest.raises(DataError, match="points must be one of 3d, 2d, got '4d'"):
        read_300w_lp(w300lp, points="4d")
    with pytest.raises(DataError, match="AFW: no such folder"):
        read_300w_lp(tmp_path)
    with pytest.raises(DataError, match="expected the folder 300W_LP with AFW"):
        read_300w_lp(tmp_path, partial=True)


# BIWI ----------------------------------------------------------------------------------------------------------------

# Of the colour camera of the set, without its turn and shift.
CALIBRATION = """517.679 0 320 
0 517.679 240.5 
0 0 1 

0 0 0 0 

1 0 0 
0 1 0 
0 0 1 

0 0 0 

640 480
"""  # noqa: W291
TURNED = CALIBRATION.replace("1 0 0 \n0 1 0 \n0 0 1 \n\n0 0 0 \n", "0 -1 0\n1 0 0\n0 0 1\n\n-25 6 100\n")


def pose_text(rotation, centre):
    rows = [" ".join(f"{number:.6g}" for number in row) + " " for row in rotation]
    return "\n".join([*rows, "", " ".join(map(str, centre)) + " ", ""])


def turned_head(yaw=0.0, pitch=0.0, roll=0.0):
    """A rotation in a camera's axes (x right, y down, z away) made of turns whose direction is plain to see.

    yaw: the nose, at -z, goes to -x (left of the picture); pitch: it goes to -y (up); roll: the top of the head, at -y,
    goes to +x (clockwise). The pose is Rx(pitch) Ry(yaw) Rz(roll): roll first.
    """
    y, p, r = np.deg2rad([yaw, pitch, roll])
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(p), np.sin(p)], [0, -np.sin(p), np.cos(p)]])
    about_z = np.array([[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]])
    return about_x @ about_y @ about_z


@pytest.fixture
def biwi(tmp_path):
    root = tmp_path / "hpdb"
    for name, frames in (("01", 2), ("12", 1)):
        for frame in range(3, 3 + frames):
            photo(root / name / f"frame_{frame:05d}_rgb.png", (480, 640))
            text = pose_text(turned_head(10 * frame, 5, -7), (40, -30, 900))
            (root / name / f"frame_{frame:05d}_pose.txt").write_text(text)
            (root / name / f"frame_{frame:05d}_depth.bin").write_bytes(b"")
        (root / name / "rgb.cal").write_text(CALIBRATION)
        (root / name / "depth.cal").write_text(CALIBRATION)
    return root


def test_the_turns_of_the_camera_go_where_their_names_say():
    assert (turned_head(yaw=30) @ (0, 0, -1))[0] < 0
    assert (turned_head(pitch=30) @ (0, 0, -1))[1] < 0
    assert (turned_head(roll=30) @ (0, -1, 0))[0] > 0


@pytest.mark.parametrize("pose", POSES)
def test_the_pose_of_biwi_projects_a_head_where_the_camera_sees_it(pose):
    rotation = turned_head(*pose)
    found = pose_of_rotation(rotation)
    np.testing.assert_allclose(found, pose, atol=1e-9)
    head = np.array(FACE_68)  # y up, z towards the viewer; the camera's axes have both the other way round
    seen = (head * (1, -1, -1)) @ rotation.T
    said = (head @ rotation_from_pose(found).T)[:, :2] * (1, -1)
    np.testing.assert_allclose(said, seen[:, :2], atol=1e-9)
    fitted, _ = fit_pose(seen[None, :, :2], head)
    assert geodesic_degrees(rotation_from_pose(fitted[0]), rotation_from_pose(pose)) < 0.01


def test_biwi_gives_each_frame_with_its_pose(biwi, tmp_path):
    samples = read_biwi(biwi, ("01", "12"))
    assert [s.name for s in samples] == ["01/frame_00003_rgb.png", "01/frame_00004_rgb.png", "12/frame_00003_rgb.png"]
    np.testing.assert_allclose(samples[1].faces.pose, [[40, 5, -7]], atol=1e-3)
    assert samples[2].faces.attributes == [{"sequence": "12"}] and samples[0].size_hw == (480, 640)
    assert [s.name[:2] for s in read_biwi(biwi, ("12",))] == ["12"]
    written_and_read_back(samples, biwi, tmp_path)


def test_the_box_of_biwi_is_that_of_a_head_where_the_colour_camera_sees_it(biwi):
    width, height, depth = HEAD_MM
    path = biwi / "12/frame_00003_pose.txt"

    def box(rotation, centre=(40, -30, 900), calibration=CALIBRATION):
        path.write_text(pose_text(rotation, centre))
        (biwi / "12/rgb.cal").write_text(calibration)
        return read_biwi(biwi, ("12",))[0].faces.boxes[0]

    scale = 517.679 / 900
    middle = np.array([320.5 + 40 * scale, 241 - 30 * scale])
    for turn, size in (({}, (width, height)), ({"yaw": 90}, (depth, height)), ({"roll": 90}, (height, width))):
        half = np.array(size) / 2 * scale
        np.testing.assert_allclose(box(turned_head(**turn)), [*(middle - half), *(middle + half)], atol=0.01)
    # x' = Q x + t with Q a quarter turn that takes (x, y) to (-y, x): (40, -30, 900) comes to (30 - 25, 40 + 6, 1000).
    scale = 517.679 / 1000
    middle, half = np.array([320.5 + 5 * scale, 241 + 46 * scale]), np.array([height, width]) / 2 * scale
    found = box(turned_head(), calibration=TURNED)
    np.testing.assert_allclose(found, [*(middle - half), *(middle + half)], atol=0.01)


def test_the_box_of_biwi_holds_the_ellipsoid_of_a_turned_head(biwi):
    rotation = turned_head(40, 30, -25)
    (biwi / "12/frame_00003_pose.txt").write_text(pose_text(rotation, (0, 0, 1e5)))
    box = read_biwi(biwi, ("12",))[0].faces.boxes[0]
    angle, height = np.meshgrid(np.linspace(0, 2 * np.pi, 721), np.linspace(0, np.pi, 361))
    ball = np.stack([np.cos(angle) * np.sin(height), np.cos(height), np.sin(angle) * np.sin(height)], -1).reshape(-1, 3)
    seen = (ball * np.array(HEAD_MM) / 2 @ rotation.T)[:, :2] * 517.679 / 1e5 + (320.5, 241)
    np.testing.assert_allclose(box, [*seen.min(axis=0), *seen.max(axis=0)], atol=1e-3)


def test_the_splits_of_biwi_share_no_sequence_and_no_person():
    assert sorted(SPLITS["train"] + SPLITS["test"]) == list(SEQUENCES) == list(SPLITS["all"])
    assert (len(SPLITS["train"]), len(SPLITS["test"])) == (16, 8)
    for pair in (("03", "15"), ("07", "22"), ("02", "21"), ("05", "18")):
        assert len({name in SPLITS["test"] for name in pair}) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (pose_text(np.eye(3), (0, 0, 900)).replace("1", "x", 1), r"line 1: expected 3 numbers, rotation and centre"),
        (pose_text(np.eye(3), (0, "nan", 900)), "line 5: expected 3 numbers"),
        (pose_text(np.eye(3), (0, 900)), "line 5: expected 3 numbers"),
        ("1 0 0\n0 1 0\n", r"expected 4 lines with numbers .*, got 2"),
        (pose_text(2 * np.eye(3), (0, 0, 900)), "expected a rotation matrix"),
        (pose_text(np.diag([1, 1, -1]), (0, 0, 900)), "expected a rotation matrix"),
        (pose_text(np.eye(3), (0, 0, -900)), "expected a head before the camera"),
    ],
)
def test_a_wrong_pose_of_biwi_is_named(biwi, text, message):
    (biwi / "12/frame_00003_pose.txt").write_text(text)
    with pytest.raises(DataError, match=rf"12/frame_00003_pose\.txt.*{message}"):
        read_biwi(biwi, ("12",))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (CALIBRATION.replace("640 480", ""), "expected 9 lines with numbers"),
        (CALIBRATION.replace("0 0 0 0", "0.1 0 0 0"), "a lens without distortion"),
        (CALIBRATION.replace("517.679 0 320", "-5 0 320"), "positive focal lengths"),
        (CALIBRATION.replace("1 0 0 \n", "3 0 0 \n"), "expected a rotation matrix"),
        (CALIBRATION.replace("240.5", "inf"), "line 2: expected 3 numbers"),
    ],
)
def test_a_wrong_calibration_of_biwi_is_named(biwi, text, message):
    (biwi / "12/rgb.cal").write_text(text)
    with pytest.raises(DataError, match=rf"12/rgb\.cal.*{message}"):
        read_biwi(biwi, ("12",))


def test_missing_files_of_biwi_are_named_unless_a_part_is_wanted(biwi, tmp_path):
    with pytest.raises(DataError, match=r"02/rgb\.cal: cannot read the annotation file"):
        read_biwi(biwi)
    assert len(read_biwi(biwi, partial=True)) == 3
    (biwi / "01/frame_00003_rgb.png").unlink()
    (biwi / "01/frame_00004_pose.txt").unlink()
    with pytest.raises(DataError, match=r"frame_00003_pose\.txt: the photo .*frame_00003_rgb\.png is missing"):
        read_biwi(biwi, ("01",))
    photo(biwi / "01/frame_00003_rgb.png")
    with pytest.raises(DataError, match=r"frame_00004_pose\.txt: cannot read the annotation file"):
        read_biwi(biwi, ("01",))
    assert [s.name for s in read_biwi(biwi, ("01",), partial=True)] == ["01/frame_00003_rgb.png"]
    (biwi / "12/frame_00003_pose.txt").unlink()
    (biwi / "12/frame_00003_rgb.png").unlink()
    with pytest.raises(DataError, match=r"12: expected frame_00003_rgb\.png"):
        read_biwi(biwi, ("12",))
    for wrong in (("1",), ("01", "25"), "01"):
        with pytest.raises(DataError, match="sequences must be of 01 to 24"):
            read_biwi(biwi, wrong)
    with pytest.raises(DataError, match="expected the folder hpdb with the sequences"):
        read_biwi(tmp_path, partial=True)


# WIDER FACE with poses -----------------------------------------------------------------------------------------------

POINTS = "15.5 30 0.0 32 31 0.0 24.25 40 0.0 18 50 0.0 30 51 0.0"
NO_POINTS = " ".join(["-1"] * 15)
LABELS = f"""# 0--Parade/a.jpg
10 20 40 50 {POINTS} 0.82 -6 12 3
60 10 36 36 {NO_POINTS} 0.5 4 -70 0
# 1--Handshaking/b.jpg
"""


@pytest.fixture
def wider(tmp_path):
    root = tmp_path / "WIDER"
    for name in ("0--Parade/a.jpg", "1--Handshaking/b.jpg"):
        photo(root / "WIDER_train/images" / name, (110, 120))
    (root / "label.txt").write_text(LABELS)
    (root / "wider_face_split").mkdir()
    official = "0--Parade/a.jpg\n2\n60 10 36 36 0 0 0 1 0 0\n11 20 40 50 2 1 0 0 1 0\n"
    official += "1--Handshaking/b.jpg\n0\n0 0 0 0 0 0 0 0 0 0\n"
    (root / "wider_face_split/wider_face_train_bbx_gt.txt").write_text(official)
    return root


def pose_in(tmp_path, face):
    """The pose of one face of a label file."""
    (tmp_path / "label.txt").write_text(f"# a.jpg\n{face}\n")
    return read_pose_labels(tmp_path / "label.txt")[0].faces.pose[0].tolist()


def test_poses_of_wider_face_are_read_pitch_first_beside_boxes_and_points(wider, tmp_path):
    a, b = list(read_widerpose(wider, wider / "label.txt"))
    assert a.name == "WIDER_train/images/0--Parade/a.jpg" and a.size_hw == (110, 120) and len(b.faces) == 0
    assert a.faces.boxes.tolist() == [[10, 20, 50, 70], [60, 10, 96, 46]]
    assert a.faces.pose.tolist() == [[12, -6, 3], [-70, 4, 0]]  # yaw, pitch, roll
    assert a.faces.landmarks5[0, 2].tolist() == [24.25, 40] and np.isnan(a.faces.landmarks5[1]).all()
    assert a.faces.landmarks5_human.tolist() == [True, False]
    written_and_read_back([b], wider, tmp_path)


def test_boxes_and_points_are_those_that_retinaface_has_in_its_form(wider):
    lines = [" ".join(line.split()[:20]) if line[0] != "#" else line for line in LABELS.splitlines()]
    (wider / "retinaface.txt").write_text("\n".join(lines))
    pairs = zip(read_pose_labels(wider / "label.txt"), read_retinaface_labels(wider / "retinaface.txt"), strict=True)
    for ours, theirs in pairs:
        assert ours.name == theirs.name and ours.faces.attributes == theirs.faces.attributes
        for field in ("boxes", "landmarks5", "ignore", "landmarks5_human"):
            np.testing.assert_array_equal(getattr(ours.faces, field), getattr(theirs.faces, field))


@pytest.mark.parametrize("size", ["34 35", "35 34.9", "30 40", "0 0"])
def test_a_face_under_35_pixels_has_no_pose_whatever_its_line_says(tmp_path, size):
    assert np.isnan(pose_in(tmp_path, f"10 20 {size} {POINTS} 0.8 -6 12 3")).all()


@pytest.mark.parametrize("size", ["35 35", "30 41", "400 500"])
def test_a_face_from_35_pixels_on_has_its_pose(tmp_path, size):
    assert pose_in(tmp_path, f"10 20 {size} {POINTS} 0.8 -6 12 3") == [12, -6, 3]


def test_what_stands_for_an_unknown_pose_and_what_does_not(tmp_path):
    for unknown in ("10 20 40 50", f"10 20 40 50 {POINTS}", f"10 20 40 50 {POINTS} 0.8"):
        assert np.isnan(pose_in(tmp_path, unknown)).all()
    assert np.isnan(pose_in(tmp_path, f"10 20 40 50 {NO_POINTS} 0.8 -1 -1 -1")).all()
    assert pose_in(tmp_path, f"10 20 40 50 {POINTS} 0.8 -1 -1 -1") == [-1, -1, -1]
    assert pose_in(tmp_path, f"10 20 40 50 {POINTS} 0.8 0 0 0") == [0, 0, 0]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (f"# a.jpg\n10 20 40 50 {POINTS} 0.8 1 2\n", "line 2: expected 4, 19, 20 or 23 numbers of a face of a.jpg"),
        (f"# a.jpg\n10 20 40 50 {POINTS} 0.8 1 2 nan\n", "line 2: expected 4, 19, 20 or 23 numbers"),
        (f"# a.jpg\n10 20 40 50 {POINTS} 0.8 1 2 x\n", "line 2: expected 4, 19, 20 or 23 numbers"),
        (f"# a.jpg\n\n10 20 40 50 {POINTS} 0.8 1 2 181\n", "line 3: expected pitch, yaw, roll of a face of a.jpg"),
        (f"10 20 40 50 {POINTS} 0.8 1 2 3\n", "line 1: expected '# event/file.jpg' first"),
    ],
)
def test_a_damaged_list_of_poses_is_reported_with_its_line(tmp_path, text, complaint):
    (tmp_path / "label.txt").write_text(text)
    with pytest.raises(DataError) as caught:
        read_pose_labels(tmp_path / "label.txt")
    assert str(caught.value).startswith(str(tmp_path / "label.txt")) and complaint in str(caught.value)


def test_the_official_list_gets_the_poses_of_the_boxes_that_agree(wider):
    path = wider / "wider_face_split/wider_face_train_bbx_gt.txt"
    a, _ = list(read_widerpose(wider, wider / "label.txt", annotations=path))
    assert a.faces.boxes.tolist() == [[60, 10, 96, 46], [11, 20, 51, 70]]
    assert a.faces.pose.tolist() == [[-70, 4, 0], [12, -6, 3]] and a.faces.ignore.tolist() == [True, False]
    assert a.faces.landmarks5_human.tolist() == [False, True] and a.faces.attributes[1]["blur"] == 2
    labels = read_pose_labels(wider / "label.txt")
    far = [type(labels[0])(labels[0].name, labels[0].faces.with_(boxes=labels[0].faces.boxes + 30))]
    assert add_five_points(read_widerface_txt(path), far)[1] == 2  # one with points, one with a pose alone


def test_missing_photos_with_poses_are_named_unless_a_part_is_wanted(wider):
    (wider / "WIDER_train/images/1--Handshaking/b.jpg").unlink()
    with pytest.raises(ImageError, match=r"b\.jpg"):
        list(read_widerpose(wider, wider / "label.txt"))
    assert len(list(read_widerpose(wider, wider / "label.txt", partial=True))) == 1
    with pytest.raises(DataError, match="cannot read the annotation file"):
        read_widerpose(wider, wider / "nothing.txt")


# All -----------------------------------------------------------------------------------------------------------------


def test_progress_sees_every_file(aflw2000, w300lp, biwi):
    root = aflw2000(POSES)
    for read, count in (
        (lambda progress: read_aflw2000(root, progress=progress), 6),
        (lambda progress: read_300w_lp(w300lp, progress=progress), 8),
        (lambda progress: read_biwi(biwi, ("01", "12"), progress=progress), 3),
    ):
        seen = []
        assert len(read(lambda paths, seen=seen: itertools.chain(paths, seen.extend(paths) or ()))) == count
        assert len(seen) == count
