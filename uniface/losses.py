"""The objective (Sec. 3.3, Eq. 7-12), and the named extras of the sample's recipe, 0 in the paper's configuration.

Images are `(B, 3, H, W)` in [-1, 1]; every loss is a scalar in float32. `same` is `(B,)` of 0 and 1: 1 where source and
target are one image (swapping) or of one video (reenactment). A masked loss is a mean over the whole batch, with zeros
where the mask is 0, so that the average over workers is the loss of the joint batch.
"""

import torch
import torch.nn.functional as F

Maps = list[torch.Tensor]  # feature maps of a frozen net, (B, C_i, H_i, W_i) each
FACE = (0.51, 0.49, 0.17, 0.14)  # middle (row, column) and spread (rows, columns) of a face, as shares of the picture


def reconstruction(
    fake: torch.Tensor, target: torch.Tensor, same: torch.Tensor, where: torch.Tensor | float = 1.0
) -> torch.Tensor:
    """L_rec, Eq. 8: squared error where source and target are one identity (released code: MSE of masked images).

    `where`, here and below: weight of each pixel, `(H, W)`, as `face_window` makes them.
    """
    return _masked_mean((fake - target) ** 2 * where, same)


def face_window(size: int, weight: float, device: torch.device | str = "cpu") -> torch.Tensor:
    """Weights of pixels, `(size, size)`, mean 1: in the middle of the face `weight` times those far from it.

    Not in the paper. A Gaussian where FOMM's crop and CelebA-HQ's alignment put eyes, nose and mouth: no landmarks.
    """
    line = (torch.arange(size, device=device) + 0.5) / size
    y, x = torch.meshgrid(line, line, indexing="ij")
    window = 1 + (weight - 1) * torch.exp(-(((y - FACE[0]) / FACE[2]) ** 2 + ((x - FACE[1]) / FACE[3]) ** 2) / 2)
    return window / window.mean()


def perceptual(
    fake: Maps, target: Maps, channels: Maps | None = None, where: torch.Tensor | None = None
) -> torch.Tensor:
    """L_p, Eq. 9: LPIPS. Every position of a map is scaled to unit length over its channels; squared distance, sum over
    channels, mean over positions, sum over maps. `channels`: LPIPS's learnt weights, `(1, C_i, 1, 1)` each; else all 1.
    `where` `(B,)` of 0 and 1: only these images count; None: all.
    """
    weights = channels or [1.0] * len(target)
    mask = target[0].new_ones(len(target[0])) if where is None else where
    parts = zip(fake, target, weights, strict=True)
    return sum(_masked_mean((((_unit(a) - _unit(b)) ** 2) * weight).sum(1), mask) for a, b, weight in parts)


def identity(source: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """L_id, Eq. 10: one minus the cosine of two embeddings `(B, D)`."""
    return 1 - F.cosine_similarity(source.float(), fake.float(), dim=1).mean()


def contextual(fake: torch.Tensor, target: torch.Tensor, bandwidth: float = 0.5) -> torch.Tensor:
    """L_ctx, Eq. 11, of one feature map `(B, C, H, W)` each: -log CX (Mechrez et al.; constants of the released code).

    Both maps are centred by the target's mean over batch and positions; CX is the mean over target positions of the
    best match among the fake's.
    """
    centre = target.float().mean(dim=(0, 2, 3), keepdim=True)
    fake = F.normalize((fake.float() - centre).flatten(2), dim=1)  # (B, C, N) fake positions
    target = F.normalize((target.float() - centre).flatten(2), dim=1)  # (B, C, M) target positions
    distance = (1 - fake.transpose(1, 2) @ target) / 2  # (B, N, M), 0 to 1
    relative = distance / (distance.amin(dim=2, keepdim=True) + 1e-5)
    similarity = torch.softmax((1 - relative) / bandwidth, dim=2)  # over target positions
    return -torch.log(similarity.amax(dim=1).mean(dim=1)).mean()


def adversarial(fake_logits: torch.Tensor) -> torch.Tensor:
    """L_adv of the generator, Eq. 12 in its non-saturating form (released code)."""
    return F.softplus(-fake_logits.float()).mean()


def discriminator(real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
    """L_adv of the discriminator, Eq. 12: -log D(real) - log(1 - D(fake)), D being the sigmoid of the logits."""
    return F.softplus(-real_logits.float()).mean() + F.softplus(fake_logits.float()).mean()


def gradient_penalty(real_logits: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """R1 (Mescheder et al.): mean over the batch of the squared gradient of the logits; `real` requires a gradient."""
    (slope,) = torch.autograd.grad(real_logits.sum(), real, create_graph=True)
    return slope.float().square().flatten(1).sum(1).mean()


def absolute(
    fake: torch.Tensor, target: torch.Tensor, same: torch.Tensor, where: torch.Tensor | float = 1.0
) -> torch.Tensor:
    """Extra: mean absolute error where `same`."""
    return _masked_mean((fake - target).abs() * where, same)


def edges(
    fake: torch.Tensor,
    target: torch.Tensor,
    same: torch.Tensor,
    where: torch.Tensor | float = 1.0,
    scales: int = 3,
) -> torch.Tensor:
    """Extra: mean absolute error of horizontal and vertical differences at `scales` octaves where `same`."""
    total = fake.new_zeros(())
    error = (fake - target) * where
    for _ in range(scales):
        total = total + _masked_mean(error.diff(dim=2).abs(), same) + _masked_mean(error.diff(dim=3).abs(), same)
        error = F.avg_pool2d(error, 2)
    return total


def colour(fake: torch.Tensor, target: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Extra: mean absolute error of the 8 x 8 block means, that is of the coarse colours, where `where` is 1."""
    return _masked_mean(F.avg_pool2d(fake - target, 8).abs(), where)


def border(fake: torch.Tensor, target: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Extra: mean absolute error outside the fixed window that the crop puts the face in, where `where` is 1."""
    height, width = fake.shape[-2:]
    outside = torch.ones(height, width, device=fake.device)
    outside[round(0.22 * height) : round(0.91 * height), round(0.19 * width) : round(0.81 * width)] = 0
    return _masked_mean((fake - target).abs() * outside, where)


def _masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return (values.float().flatten(1).mean(1) * mask).mean()


def _unit(features: torch.Tensor) -> torch.Tensor:
    return F.normalize(features.float(), dim=1, eps=1e-10)
