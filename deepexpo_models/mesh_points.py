"""What `faces` and `head` both know of MediaPipe's face mesh."""

POINTS = 478
# insightface's five: the eyes' centres, the tip of the nose, the mouth's corners, each the picture's left one first.
FIVE = (468, 473, 4, 61, 291)
