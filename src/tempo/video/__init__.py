"""From video files to clips: finding, decoding, shots, clips, frames."""
