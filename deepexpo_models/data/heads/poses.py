"""Turns of heads. Zero is what MediaPipe's face landmarker calls frontal; MakeHuman's own zero differs by FRONTAL."""

import numpy as np

FLIP = np.diag([1.0, -1.0, -1.0])  # MakeHuman's axes (y up, z to the viewer) to the camera frame of dsid.rotation
USUAL_SHARE = 0.72
LIMITS = np.array([75.0, 45.0, 50.0])
EXTREME_YAW = (75.0, 88.0)  # test only


def euler_matrix(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """Degrees -> (3, 3), the convention of dsid.rotation."""
    (sy, sp, sr), (cy, cp, cr) = (wave(np.radians([yaw, pitch, roll])) for wave in (np.sin, np.cos))
    by_roll = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    by_yaw = np.array([[cy, 0, -sy], [0, 1, 0], [sy, 0, cy]])
    by_pitch = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
    return by_roll @ by_yaw @ by_pitch


# MediaPipe reads rotation @ FRONTAL where MakeHuman's head was turned by rotation: the mean over 115 rendered heads; on 178
# others what is left is 0.4 degrees (python -m deepexpo_models.evaluation.real_faces --heads FOLDER --landmarker FILE).
FRONTAL = euler_matrix(0.0, -4.8, 0.0)


def sample_pose(rng: np.random.Generator, split: str = "train") -> np.ndarray:
    """Yaw, pitch, roll (3,) in degrees: mostly as in photographs, the rest to LIMITS; the test split goes beyond in yaw."""
    if rng.random() < USUAL_SHARE:
        angles = rng.normal(0, [22, 13, 9])
    else:
        angles = np.array([rng.uniform(-75, 75), rng.uniform(-35, 35), rng.normal(0, 18)])
    angles = np.clip(angles, -LIMITS, LIMITS)
    if split == "test" and rng.random() < 0.15:
        angles[0] = rng.choice([-1, 1]) * rng.uniform(*EXTREME_YAW)
    return angles


def sight(gaze: np.ndarray) -> np.ndarray:
    """gaze (2,), radians to the side and up -> (3,) of length 1, in MakeHuman's axes."""
    return np.array([np.sin(gaze[0]) * np.cos(gaze[1]), np.sin(gaze[1]), np.cos(gaze[0]) * np.cos(gaze[1])])


def camera_direction(rotation: np.ndarray) -> np.ndarray:
    """rotation (3, 3) -> (2,): yaw to the picture's right and pitch up, radians, at which a head turned so sees the camera."""
    x, y, z = rotation.T @ np.array([0.0, 0.0, -1.0])
    return np.array([np.arctan2(x, -z), np.arctan2(-y, np.hypot(x, z))])
