"""MVBench (arXiv 2311.17005): twenty tasks; on the branch `video` the parts of five are cut out already."""

from tempo.evaluation.public import questions as q
from tempo.evaluation.public.tvbench import STYLE

STAR = ("star/Charades_v1_480", "star/Charades_segment")
CLEVRER, PERCEPTION = ("clevrer/video_validation",), ("perception/videos",)

#: Where names of files repeat: folders of whole videos (branch `main`) and of parts (branch `video`).
FOLDERS = {
    **dict.fromkeys(("action_sequence", "action_prediction", "object_interaction"), STAR),
    **dict.fromkeys(("object_existence", "moving_direction", "moving_count"), CLEVRER),
    **dict.fromkeys(("moving_attribute", "counterfactual_inference"), CLEVRER),
    **dict.fromkeys(("object_shuffle", "action_count", "state_change", "character_order"), PERCEPTION),
    "action_localization": ("sta/sta_video", "sta/sta_video_segment"),
    "episodic_reasoning": ("tvqa/frames_fps3_hq", "tvqa/video_fps3_hq_segment"),
}


@q.benchmark("OpenGVLab/MVBench", "json/*.json", mean="tasks")
def mvbench(row: q.Row) -> q.Questions:
    names = [f"{folder}/{row['video']}" for folder in FOLDERS.get(row.name, ())] or [row["video"]]
    video, options = row.data.first(*names), row["candidates"]
    bounds = {f"{name}_seconds": row[name] for name in ("start", "end") if name in row and video == names[0]}
    fields = q.list_options(row["question"], options, **STYLE)
    yield q.question_of(row, video, q.index_of(row["answer"], options), aspect=row.name, **bounds, **fields)
