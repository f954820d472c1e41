"""A row of a benchmark."""

SAMPLE = {
    "id": "v/0",
    "video": "v.mp4",
    "aspect": "direction",
    "format": "multiple_choice",
    "question": "Where to?",
    "options": ["Left.", "Right."],
    "answer": 1,
}
