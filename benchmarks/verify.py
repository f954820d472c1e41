"""How often `pairs.verify` is right, in a run on synthetic videos, whose true events are known.

    tempo run configs/tiny.toml --out out/video --until pairs --set responses.input_form=video \
        --set pairs.verify=true --set pairs.verify_margin=-1
    python benchmarks/verify.py out/video

The margin -1 keeps every pair. A pair is right if its chosen text agrees better with the true captions of the
events, in their order, than its rejected text does. P: pairs.
"""

import sys
from pathlib import Path

import numpy as np

from tempo.core.records import Captions, Clips, Pair
from tempo.core.store import RunStore
from tempo.preference.verify import agreement_gain
from tempo.synthetic import language
from tempo.synthetic.world import Story


def main(run: Path) -> None:
    """Prints, for several margins, how many pairs are kept and how many of these are right."""
    store = RunStore(run)
    stories = RunStore(run / "synthetic" / "videos").read("scripts", Story)
    by_story = {story.id: [language.caption(event) for event in story.events] for story in stories}
    true = {video.id: by_story[Path(video.path).stem] for video in store.read("clips", Clips)}
    own = {row.id: row.captions for row in store.read("captions", Captions)}
    pairs = [pair for name in ("pairs", "held_out_pairs") for pair in store.read(name, Pair)]
    true_P, own_P = (
        np.array([agreement_gain(pair.chosen, pair.rejected, captions[pair.video_id]) for pair in pairs])
        for captions in (true, own)
    )
    for margin in (-1.0, 0.0, 0.05, 0.1, 0.2):
        kept_P = own_P > margin
        share = np.mean(true_P[kept_P] > 0)
        print(f"margin {margin:5.2f}: {kept_P.sum()} of {len(pairs)} pairs, {share:.1%} of them right")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
