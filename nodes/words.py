"""What artists type when they look for a node (search aliases, beside the words in its name), and which nodes are essential."""

ALIASES = {
    "DeepExPoApplyMEAF": "ipadapter, faceid, instantid, pulid, face adapter, identity, expression, emotion, smile, head pose, "
    "portrait, likeness, person, photo, same person, consistent character",
    "DeepExPoBlendIdentities": "mix faces, merge faces, morph, face, person, likeness",
    "DeepExPoBlendSemantics": "exaggerate, interpolate, emotion, smile, pose, face",
    "DeepExPoCombineSemantics": "mix, emotion, smile, pose, face",
    "DeepExPoCropFace": "face detection, detect face, face crop, head, portrait, photo, bounding box, insightface",
    "DeepExPoDrawFaceControl": "controlnet, openpose, mediapipe, face map, pose, emotion, retarget, liveportrait, kps, depth",
    "DeepExPoEditSemantics": "expression editor, liveportrait, sliders, emotion, smile, wink, laugh, sad, angry, blink, gaze, "
    "head pose, turn head, yaw, pitch, roll, facs, arkit, blendshapes, face, portrait",
    "DeepExPoDrawSheet": "grid, contact sheet, xy plot, labels, compare, collage, face",
    "DeepExPoEncodeIdentity": "faceid, face embedding, embeds, likeness, person, photo, portrait, arcface, instantid",
    "DeepExPoEncodeSemantics": "emotion, smile, facial expression, pose, face, photo, reference, liveportrait",
    "DeepExPoExpressionPresets": "emotion, emotions, smile, sad, angry, happy, expression sheet, batch, character sheet",
    "DeepExPoFindLandmarks": "mediapipe, face mesh, blendshapes, arkit, keypoints, detect face, expression",
    "DeepExPoIdentityToControlNet": "instantid, controlnet, face tokens, cross attention, identitynet, faceid, kps, likeness",
    "DeepExPoLoadDSID": "face model, identity, expression, head pose, disentangle",
    "DeepExPoLoadIdentity": "open, library, saved face, person, character, likeness",
    "DeepExPoLoadMEAF": "ipadapter, faceid, instantid, adapter model, face model",
    "DeepExPoLoadSemantics": "open, library, saved expression, emotion, head pose, smile",
    "DeepExPoLoadStarter": "checkpoint, demo model, small model, painted heads, photo",
    "DeepExPoMeasure": "similarity, likeness, score, face distance, evaluate, identity leak, compare faces, plot, expression",
    "DeepExPoPairSheet": "xy plot, grid, batch, matrix, contact sheet, expression sheet, character sheet, all combinations",
    "DeepExPoReenact": "reenactment, liveportrait, animate face, talking head, expression",
    "DeepExPoSampleFace": "example picture, demo, test image, portrait, person, photo, expression",
    "DeepExPoSaveIdentity": "export, library, keep face, person, character, likeness",
    "DeepExPoSaveSemantics": "export, library, keep expression, emotion, head pose, smile",
    "DeepExPoSmoothSemantics": "video, clip, jitter, flicker, stabilise, one euro, filter, animation, expression, head pose",
}

ESSENTIAL = {  # the main job's nodes -> the shelf of ComfyUI's essentials
    "DeepExPoApplyMEAF": "Image Tools",
    "DeepExPoCropFace": "Image Tools",
    "DeepExPoDrawFaceControl": "Image Tools",
    "DeepExPoEditSemantics": "Image Tools",
    "DeepExPoEncodeIdentity": "Image Tools",
    "DeepExPoEncodeSemantics": "Image Tools",
}


def aliases(node_id: str) -> list[str]:
    """Those of a node; none for one that is not in the table, which a test refuses."""
    return ALIASES[node_id].split(", ") if node_id in ALIASES else []
