"""The model card that goes with every registered version: what it is, what it scores, what it is not for."""

from collections.abc import Mapping
from typing import Any

_CARD = """# {name}: one model for face reenactment and face swapping

UniFace (Xu et al., ECCV 2022), trained by this project. `source` gives the identity, `target` gives the attributes
(pose, expression, gaze). Input: two square face crops; output: one image of {size} x {size} pixels.

| | |
|---|---|
{facts}

## Scores on held-out identities

{scores}

## Frozen networks behind the scores

{networks}

A stand-in is a small network of this project in the place of the paper's; its numbers compare models with each
other, not with a paper's table.

## Files

`reenactment.safetensors`, `swapping.safetensors`: the weights after stage 1 and stage 2, their config in the metadata.
{onnx}

## Responsible use

Made to study and detect face manipulation. Do not make pictures of people without their consent, and mark what the
model made as synthetic. Data and third-party weights keep their own licences; many allow research only.
"""


def card(
    name: str,
    size: int,
    facts: Mapping[str, str],
    metrics: Mapping[str, Any],
    weights: Mapping[str, Mapping[str, Any]],
    onnx: Mapping[str, str],
) -> str:
    """The card as markdown. `metrics` as in reports/metrics.json, `weights` as in data/weights/weights.json.

    `onnx` says for each task how its export went.
    """
    return _CARD.format(
        name=name,
        size=size,
        facts="\n".join(f"| {key} | `{value}` |" for key, value in facts.items()),
        scores=scores(metrics) or "No scores.",
        networks="\n".join(_network(role, entry) for role, entry in weights.items()) or "None recorded.",
        onnx="\n".join(f"`{task}.onnx`: {result}" for task, result in onnx.items()),
    )


def _network(role: str, entry: Mapping[str, Any]) -> str:
    kind = "stand-in" if entry.get("stand_in") else "the real one"
    return f"- {role}: {entry.get('name', '?')} ({kind}; licence: {entry.get('licence', 'unknown')})"


def scores(metrics: Mapping[str, Any]) -> str:
    """A markdown table for each exam of reports/metrics.json; text and nested entries are left out."""
    parts = []
    for task in dict.fromkeys(("reconstruction", "reenactment", "swapping", *metrics.get("exams", ()))):
        rows = {k: v for k, v in metrics.get(task, {}).items() if isinstance(v, int | float)}
        if rows:
            lines = [f"| {name} | {value:.4g} |" for name, value in rows.items()]
            parts.append("\n".join([f"| {task} | |", "|---|---:|", *lines]))
    return "\n\n".join(parts)
