"""Motion of a talking head: smooth, blinking, the mouth moving in syllables, the head nodding."""

import numpy as np

from pipeline.sample.drawing.identity import Attributes


def trajectory(rng: np.random.Generator, frames: int, fps: float = 25.0) -> list[Attributes]:
    """Attributes of `frames` successive frames: slow sums of sinusoids for pose, gaze and mood, syllables and pauses
    for the mouth, a blink every two or three seconds."""
    t = np.arange(frames) / fps
    tracks = {}
    for name, (low, high) in Attributes.RANGES.items():
        size, speed, phase = rng.uniform(0.3, 1, 3), rng.uniform(0.1, 0.6, 3), rng.uniform(0, 2 * np.pi, 3)
        waves = (size * np.sin(2 * np.pi * speed * t[:, None] + phase)).sum(1)  # (frames,)
        tracks[name] = (low + high) / 2 + (high - low) / 2 * np.clip(0.7 * waves + rng.normal(0, 0.15), -1, 1)
    talking = np.clip(np.sin(2 * np.pi * 0.22 * t + rng.uniform(0, 2 * np.pi)) * 1.5 + 1, 0, 1)
    syllables = np.sin(2 * np.pi * rng.uniform(2, 3.4) * t) * np.sin(2 * np.pi * 0.7 * t)
    tracks["mouth"] = np.clip(talking * (0.45 + 0.55 * syllables), 0, 1)
    blinks = np.arange(rng.uniform(0, 2), t[-1] + 3, rng.uniform(1.5, 3))
    shut = np.exp(-(((t[:, None] - blinks) / 0.09) ** 2)).max(1)
    tracks["blink"] = np.clip(shut + 0.05 * (1 + np.sin(t * 0.8)), 0, 1)
    tracks["pucker"] = np.clip(tracks["pucker"] * 1.6 - 0.9, 0, 1) * (tracks["smile"] < 0.4)
    return [Attributes(**{name: float(track[i]) for name, track in tracks.items()}) for i in range(frames)]
