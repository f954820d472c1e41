"""MVBench (arXiv 2311.17005): twenty tasks; on the branch `video` the parts of five are cut out already."""

from tempo.evaluation.public import questions as q
from tempo.evaluation.public.tvbench import STYLE

#: Where names of files repeat: folders of whole videos (branch `main`) and of parts (branch `video`).
FOLDERS = {
    ("star/Charades_v1_480", "star/Charades_segment"): (
        "action_sequence",
        "action_prediction",
        "object_interaction",
    ),
    ("sta/sta_video", "sta/sta_video_segment"): ("action_localization",),
    ("tvqa/frames_fps3_hq", "tvqa/video_fps3_hq_segment"): ("episodic_reasoning",),
    ("perception/videos",): ("object_shuffle", "action_count", "state_change", "character_order"),
    ("clevrer/video_validation",): (
        "object_existence",
        "moving_count",
        "moving_attribute",
        "moving_direction",
        "counterfactual_inference",
    ),
}


def _read(row: q.Row) -> q.Questions:
    folders = next((folders for folders, tasks in FOLDERS.items() if row.name in tasks), ())
    names = [f"{folder}/{row['video']}" for folder in folders] or [row["video"]]
    video, options = row.data.first(*names), row["candidates"]
    bounds = {f"{name}_seconds": row[name] for name in ("start", "end") if row.get(name) is not None}
    yield q.question_of(
        row,
        video,
        q.index_of(row["answer"], options),
        aspect=row.name,
        **(bounds if video == names[0] else {}),
        **q.list_options(row["question"], options, **STYLE),
    )


BENCHMARK = q.Benchmark("OpenGVLab/MVBench", ("json/*.json",), _read, num_frames=16, mean="tasks")
