"""Image and identity metrics (Sec. 4.1, "Evaluation Metric", and the exact ones that only a known truth allows).

Images are float RGB (B, 3, H, W) in [-1, 1] and are clipped to it first; whatever is per image comes as (B,).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

PSNR_CEILING = 80.0  # dB, given to equal images


def psnr(images: Tensor, truth: Tensor, mask: Tensor | None = None) -> Tensor:
    """Peak signal-to-noise ratio in dB, (B,), of all three channels; at most 80.

    `mask` (B, 1, H, W) in 0 and 1: only there; NaN for an image whose mask is empty.
    """
    error = ((_clipped(images) - _clipped(truth)) / 2).square()  # of values in [0, 1]
    share = torch.ones_like(error[:, :1]) if mask is None else mask
    mean = (error * share).flatten(1).sum(1) / (3 * share.flatten(1).sum(1))
    return -10 * torch.log10(mean + 10 ** (-PSNR_CEILING / 10))


def changed(truth: Tensor, target: Tensor, threshold: float = 0.02) -> Tensor:
    """Where the exact swap differs from the target, (B, 1, H, W) in 0 and 1: the face that a swap should replace.

    Mean over channels of the difference (of values in [0, 1]) above `threshold`, widened by one pixel.
    """
    difference = ((_clipped(truth) - _clipped(target)).abs() / 2).mean(1, keepdim=True)  # (B, 1, H, W)
    return F.max_pool2d((difference > threshold).float(), 3, 1, 1)


def ssim(images: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity (B,): torchmetrics' with Wang et al.'s 11 x 11 Gaussian, sigma 1.5, mean over channels."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    values = structural_similarity_index_measure(
        (_clipped(images) + 1) / 2, (_clipped(truth) + 1) / 2, data_range=1.0, reduction="none"
    )
    return values.reshape(len(images))


def perceptual(maps: list[Tensor], truth: list[Tensor], channels: list[Tensor] | None = None) -> Tensor:
    """LPIPS of each image (B,), from feature maps (B, C_i, H_i, W_i): the distance that L_p is the mean of.

    `channels` are LPIPS's learnt weights, (1, C_i, 1, 1) each; without them all are 1.
    """
    total = maps[0].new_zeros(len(maps[0]), dtype=torch.float32)
    for i, (a, b) in enumerate(zip(maps, truth, strict=True)):
        a, b = (F.normalize(x.float(), dim=1, eps=1e-10) for x in (a, b))
        squared = (a - b).square()  # (B, C, H, W)
        total = total + (squared if channels is None else squared * channels[i]).sum(1).flatten(1).mean(1)
    return total


def retrieved(queries: Tensor, gallery: Tensor) -> Tensor:
    """Index of the gallery embedding closest to each query, (B,); embeddings (., D) of length 1 (IDRet, Sec. 4.1)."""
    return (queries @ gallery.T).argmax(1)


def frechet(features: Tensor, real: Tensor) -> float:
    """Frechet distance of two sets of features (N, D), (M, D) seen as Gaussians: the FID if they are Inception's.

    Raises ValueError if a set has fewer than two members.
    """
    if min(len(features), len(real)) < 2:
        raise ValueError(f"a Frechet distance needs two images on each side, got {len(features)} and {len(real)}")
    a, b = features.double(), real.double()
    covariance_a, covariance_b = torch.cov(a.T), torch.cov(b.T)
    # trace of sqrt(A B): A B has the eigenvalues of the symmetric sqrt(A) B sqrt(A)
    values, vectors = torch.linalg.eigh(covariance_a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ covariance_b @ root).clamp(min=0).sqrt().sum()
    distance = (a.mean(0) - b.mean(0)).square().sum() + covariance_a.trace() + covariance_b.trace() - 2 * cross
    return max(float(distance), 0.0)


def blurred(images: Tensor, sigma: float) -> Tensor:
    """Images under a Gaussian of `sigma` pixels, borders reflected: the baseline that beats many a model on PSNR."""
    radius = min(int(4 * sigma + 0.5), images.shape[-1] - 1)
    offsets = torch.arange(-radius, radius + 1, dtype=images.dtype, device=images.device)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, -1)
    padded = F.pad(images, (radius,) * 4, mode="reflect")
    return F.conv2d(F.conv2d(padded, kernel, groups=3), kernel.transpose(2, 3), groups=3)


def _clipped(images: Tensor) -> Tensor:
    return images.float().clamp(-1, 1)
