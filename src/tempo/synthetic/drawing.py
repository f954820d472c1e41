"""Draws the world: an event at any moment as an image, a story as an H.264 file."""

import math
from pathlib import Path

from PIL import Image, ImageDraw

from tempo.core.files import replace_file
from tempo.synthetic.world import Event, Story

SIZE, FPS = 128, 12
SHOT_FRAMES = 2 * FPS

Rgb = tuple[int, int, int]

_PAINT: dict[str, Rgb] = {
    "red": (225, 30, 30),
    "green": (40, 200, 60),
    "blue": (40, 80, 235),
    "yellow": (250, 225, 40),
    "purple": (165, 50, 200),
    "white": (245, 245, 245),
}
#: Colours of sky, ground and decoration; height of the horizon as a fraction of the image height.
_SCENERY: dict[str, tuple[Rgb, Rgb, Rgb, float]] = {
    "desert": ((240, 200, 140), (205, 150, 85), (180, 125, 65), 0.55),
    "forest": ((90, 130, 100), (45, 85, 45), (25, 60, 30), 0.35),
    "sea": ((150, 205, 235), (30, 110, 160), (60, 140, 190), 0.3),
    "city": ((150, 150, 160), (85, 85, 90), (110, 105, 115), 0.75),
    "snow": ((190, 200, 215), (215, 225, 235), (170, 185, 205), 0.5),
    "night": ((15, 15, 50), (25, 30, 35), (230, 230, 180), 0.8),
    "field": ((120, 190, 250), (140, 175, 60), (115, 150, 45), 0.6),
    "cave": ((60, 45, 40), (85, 65, 55), (40, 30, 28), 0.85),
}


def draw_event(event: Event, time: float) -> Image.Image:
    """The image [SIZE, SIZE] of an event at a time from 0 (start of the shot) to 1 (end of the shot)."""
    image = _draw_setting(event.setting, event.drift)
    colour, x, y, radius = appearance(event, time)
    if radius > 0:
        _draw_shape(ImageDraw.Draw(image), event.shape, x * SIZE, y * SIZE, radius * SIZE, _PAINT[colour])
    return image


def appearance(event: Event, time: float) -> tuple[str, float, float, float]:
    """Colour, centre x and y, and radius (0 if invisible) of the shape, as fractions of the image."""
    is_late = time >= 0.5
    colour = event.action.removeprefix("turns ") if is_late and "turns " in event.action else event.colour
    radius = {"grows": 0.08 + 0.18 * time, "shrinks": 0.26 - 0.18 * time}.get(event.action, 0.19)
    if event.action == ("disappears" if is_late else "appears"):
        radius = 0.0
    share = time**3 if event.action == "speeds up" else 1 - (1 - time) ** 3
    diagonal = (0.2 + 0.6 * share, 0.8 - 0.6 * share + 0.06 * event.drift)
    along, across = 0.2 + 0.6 * time, 0.5 + 0.15 * event.drift
    x, y = {
        "moves right": (along, across),
        "moves left": (1 - along, across),
        "moves down": (across, along),
        "moves up": (across, 1 - along),
        "speeds up": diagonal,
        "slows down": diagonal,
    }.get(event.action, (across, 0.5 + 0.1 * math.sin(7 * event.drift)))
    return colour, x, y, radius


def render_story(story: Story, path: Path) -> None:
    """Writes a story as H.264 in MP4; equal stories give equal bytes. A failure leaves no file at `path`."""
    import av

    # One thread, because the bytes would otherwise depend on the number of cores.
    options = {"crf": "18", "preset": "veryfast", "threads": "1"}
    times = [(index + 0.5) / SHOT_FRAMES for index in range(SHOT_FRAMES)]
    with replace_file(path, is_durable=False) as part, av.open(str(part), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        for image in (draw_event(event, time) for event in story.events for time in times):
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode(None))


def _draw_shape(draw: ImageDraw.ImageDraw, shape: str, x: float, y: float, radius: float, paint: Rgb) -> None:
    left, top, right, bottom = box = x - radius, y - radius, x + radius, y + radius
    if shape == "circle":
        draw.ellipse(box, fill=paint, outline="black", width=2)
    elif shape == "square":
        draw.rectangle(box, fill=paint, outline="black", width=2)
    elif shape == "triangle":
        draw.polygon([(x, top), (right, bottom), (left, bottom)], fill=paint, outline="black", width=2)
    elif shape == "cross":
        for half_width, half_height in ((radius, radius / 3), (radius / 3, radius)):
            draw.rectangle((x - half_width, y - half_height, x + half_width, y + half_height), fill=paint)
    else:
        draw.ellipse(box, outline=paint, width=max(2, round(radius / 2.5)))


def _draw_setting(setting: str, drift: float) -> Image.Image:
    """The setting alone; its decoration moves a little with `drift`."""
    sky, ground, decoration, horizon = _SCENERY[setting]
    image = Image.new("RGB", (SIZE, SIZE), sky)
    draw = ImageDraw.Draw(image)
    line, shift = int(horizon * SIZE), int(6 * drift)
    draw.rectangle((0, line, SIZE, SIZE), fill=ground)
    if setting == "night":
        for i in range(24):
            x, y = (i * 53 + shift) % SIZE, (i * 31) % line
            draw.ellipse((x, y, x + 1, y + 1), fill=decoration)
    elif setting in ("forest", "city"):
        for x in range(-16 + shift, SIZE, 16):
            top = line - 8 - (x * 7) % 22
            if setting == "forest":
                draw.polygon([(x, line), (x + 6, top), (x + 12, line)], fill=decoration)
            else:
                draw.rectangle((x, top, x + 11, line), fill=decoration)
    else:
        for y in range(line + 4, SIZE, 11):
            draw.line((0, y + shift % 5, SIZE, y - shift % 5), fill=decoration, width=2)
    return image
