"""Pictures of what the model does inside: the displacement field and what it moves, IdT's attention, what z_t holds.

And of what it does best and worst.
"""

from typing import TYPE_CHECKING

import numpy as np
import torch

from pipeline.common.sheets import TILE
from pipeline.scoring.tables import MODEL, Table, better
from uniface.explain import POINTS, cells, colour_field, longest, looked_at, marked
from uniface.images import resize, to_tensor, to_uint8
from uniface.model import UniFace

if TYPE_CHECKING:
    from pipeline.scoring.held_out import Pairs

ARROWS = 12  # in a row of a displacement field
SIDE = ("_fixed_crop", "_loss_recogniser")  # the same metric, measured in another way
QUERIES, TOP = 3, 4  # of the retrieval by z_t


def arrows(image: np.ndarray, fdf: np.ndarray) -> np.ndarray:
    """The displacement field (2, h, w) as arrows on a darkened picture (H, W, 3): where content comes from, and goes.

    The field says for each place which one of the source is sampled there, in units of half a picture.
    """
    from PIL import Image, ImageDraw

    side = max(TILE, image.shape[1])
    page = Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)
    page = Image.blend(page, Image.new("RGB", page.size, (16, 16, 24)), 0.55)
    draw, width = ImageDraw.Draw(page), max(1, side // 96)
    for y, x in np.ndindex(ARROWS, ARROWS):
        place = (np.array([x, y]) + 0.5) / ARROWS
        row, column = (np.array(fdf.shape[1:]) * place[::-1]).astype(int)
        start, end = (place + fdf[:, row, column] / 2) * (side - 1), place * (side - 1)
        draw.line([*start, *end], fill=(255, 206, 84), width=width)
        draw.circle(end, 1.5 * width, fill=(255, 255, 255))
    return np.asarray(page)


def features(*maps: np.ndarray) -> list[np.ndarray]:
    """Feature maps (N, C, h, w) as pictures (N, h, w, 3) whose three colours are the main components of all of them."""
    flat = [np.moveaxis(m, 1, -1) for m in maps]
    together = np.concatenate([m.reshape(-1, m.shape[-1]) for m in flat])
    mean = together.mean(axis=0)
    axes = np.linalg.eigh(np.cov((together - mean).T))[1][:, ::-1][:, :3]  # (C, 3)
    axes *= np.sign(axes[np.abs(axes).argmax(axis=0), range(axes.shape[1])])  # an axis has no direction of its own
    shown = [(m - mean) @ axes for m in flat]
    reach = np.quantile(np.abs(np.concatenate([m.reshape(-1, 3) for m in shown])), 0.98, axis=0).clip(1e-6)
    return [((m / reach).clip(-1, 1) * 127.5 + 127.5).round().astype(np.uint8) for m in shown]


Sheet = tuple[list[str], list[np.ndarray]]
"""Labels and columns of a sheet of pictures."""


def fdf_sheet(model: UniFace, source: np.ndarray, target: np.ndarray) -> Sheet | None:
    """What AttrT does (as the paper's Fig. 9), for uint8 (N, H, W, 3); None without AttrT.

    The field that the attribute embedder reads off the target, as colour and as arrows, and the source's features
    before and after it moved them.
    """
    images = _tensors(model, source, target)
    parts = model.explain(*images, task="reenactment")
    if parts.fdf is None:
        return None
    with torch.no_grad():
        f_s = model.identity_embedder(images[0])[0]
    fields = parts.fdf.float().cpu().numpy()  # (N, 2, h, w)
    largest = longest(fields)  # one scale for all rows
    coloured = [colour_field(field, largest) for field in fields]
    drawn = [arrows(image, field) for image, field in zip(target, fields, strict=True)]
    before, after = features(*(f.float().cpu().numpy() for f in (f_s, parts.f_bar_s)))
    columns = {"source": source, "target": target, "FDF, colour": coloured, "FDF, arrows": drawn}
    columns |= {"features before": before, "after the warp": after, "output": to_uint8(parts.image)}
    side = max(TILE, source.shape[1])
    return list(columns), [np.stack([_enlarged(image, side) for image in column]) for column in columns.values()]


def attention_sheet(model: UniFace, source: np.ndarray, target: np.ndarray) -> Sheet | None:
    """Where in the source IdT looks for four points of the target (as the paper's Fig. 8 b); None without IdT.

    A map that lights up around its own point reads the source's feature that AttrT has put there.
    """
    parts = model.explain(*_tensors(model, source, target), task="swapping")
    if parts.attention is None:
        return None
    attention = parts.attention.float().cpu().numpy()  # (N, tokens of the target, tokens of the warped source)
    columns = [source, np.stack([marked(image) for image in target])]
    for point in POINTS:
        columns.append(np.stack([looked_at(t, a, point) for t, a in zip(target, attention, strict=True)]))
    return ["source", "target", *(f"for the {name}" for name in POINTS)], columns


def retrieval_sheet(model: UniFace, pairs: "Pairs") -> Sheet | None:
    """For three targets the pictures of four other persons with the nearest z_t (as the paper's Fig. 8 a).

    If z_t holds pose and expression and not who it is, they look the same way and are other persons. None without
    AttrT, or with fewer than five persons.
    """
    if model.attribute_embedder is None:
        return None
    pictures = np.concatenate([pairs.target, pairs.source])
    persons = np.array(pairs.target_identity + pairs.source_identity)
    queries = np.unique(persons[: len(pairs)], return_index=True)[1]
    if len(np.unique(persons)) <= TOP:
        return None
    with torch.no_grad():
        encode = model.attribute_embedder.encode
        parts = [encode(*_tensors(model, pictures[k : k + 50])) for k in range(0, len(persons), 50)]
    z_t = torch.nn.functional.normalize(torch.cat(parts).float(), dim=1).cpu().numpy()
    rows = []
    for query in queries[np.linspace(0, len(queries) - 1, QUERIES).round().astype(int)]:
        chosen = [query]
        for k in np.argsort(-(z_t @ z_t[query]), kind="stable"):
            if len(chosen) <= TOP and persons[k] not in persons[chosen]:  # each person once
                chosen.append(k)
        rows.append(chosen)
    labels = ["query", *(f"nearest {k + 1}" for k in range(TOP))]
    return labels, [pictures[list(column)] for column in zip(*rows, strict=True)]


def extremes_sheet(exam: str, table: Table, pictures: dict[str, np.ndarray]) -> tuple[Sheet, list[str]]:
    """The best and the worst pair by each metric but shares, and the names of the rows with both values.

    `pictures`: label -> (N, H, W, 3) of the exam's pairs.
    """
    ends, names = [], []
    for metric, values in table.rows[MODEL].items():
        if metric.endswith(SIDE) or len(np.unique(values[~np.isnan(values)])) <= 2:
            continue
        best, worst = np.nanargmax(values), np.nanargmin(values)
        if better(metric, exam) == "lower":
            best, worst = worst, best
        ends.append((best, worst))
        names.append(f"{metric}\nbest {values[best]:.4g}\nworst {values[worst]:.4g}")
    columns = [
        (f"{end}: {label}", p[[e[k] for e in ends]])
        for k, end in enumerate(("best", "worst"))
        for label, p in pictures.items()
    ]
    return ([label for label, _ in columns], [column for _, column in columns]), names


def _tensors(model: UniFace, *images: np.ndarray) -> list[torch.Tensor]:
    device = next(model.parameters()).device
    return [to_tensor(image).to(device) for image in images]


def _enlarged(image: np.ndarray, side: int) -> np.ndarray:
    """Brought to `side` x `side`; of maps much smaller than that the cells stay visible."""
    if 3 * len(image) > side:
        return image if len(image) == side else resize(image, (side, side))
    return cells(image, side)
