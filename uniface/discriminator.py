"""The discriminator of StyleGAN2."""

import torch
from torch import Tensor, nn

from uniface.config import ModelConfig
from uniface.layers import ActivatedConv, EqualizedLinear, ResidualBlock, run


class Discriminator(nn.Module):
    """Image (B, 3, H, W) to one logit per image (B, 1), large for real. Layers of the released code. Eq. 12."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        size = config.image_size
        self.from_rgb = ActivatedConv(3, config.width(size), kernel=1)
        self.blocks = nn.ModuleList()
        while size > 4:
            self.blocks.append(ResidualBlock(config.width(size), config.width(size // 2), sampling="down"))
            size //= 2
        channels = config.width(4)
        self.final = ActivatedConv(channels + 1, channels)
        self.hidden = EqualizedLinear(channels * 16, channels, activate=True)
        self.logit = EqualizedLinear(channels, 1)
        self.checkpointing = False

    def forward(self, image: Tensor) -> Tensor:
        x = self.from_rgb(image)
        for block in self.blocks:
            x = run(block, x, checkpointing=self.checkpointing)
        x = self.final(torch.cat([x, minibatch_stddev(x)], dim=1))  # (B, C, 4, 4)
        return self.logit(self.hidden(x.flatten(1))).float()


def minibatch_stddev(x: Tensor, largest_group: int = 4) -> Tensor:
    """One channel (B, 1, R, R): the standard deviation over the members of a group, averaged over everything else.

    Groups have four members or, if the batch does not divide by four, the largest number below that divides it.
    Members are strided through the batch: with two groups 0, 2, 4, 6 and 1, 3, 5, 7.
    """
    batch, _, height, width = x.shape
    group = next(n for n in range(min(largest_group, batch), 0, -1) if batch % n == 0)
    members = x.reshape(group, batch // group, -1).float()
    spread = (members.var(dim=0, correction=0) + 1e-8).sqrt().mean(dim=1)  # (B / group,)
    return spread.repeat(group).view(batch, 1, 1, 1).expand(-1, 1, height, width).to(x.dtype)
