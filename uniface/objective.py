"""The generator's objective, Eq. 7: which losses count and which frozen networks they look through."""

from dataclasses import dataclass

import torch
from torch import nn

from uniface import losses
from uniface.config import TrainConfig

Batch = dict[str, torch.Tensor]
Values = dict[str, torch.Tensor]


@dataclass(frozen=True)
class LossNets:
    """The nets that losses look through (uniface/backbones.py); None where no loss with a weight needs one."""

    recogniser: nn.Module | None = None  # L_id: images -> (B, D)
    perceptual: nn.Module | None = None  # L_p: images -> feature maps
    channels: list[torch.Tensor] | None = None  # LPIPS's learnt weights of those maps
    contextual: nn.Module | None = None  # L_ctx: images -> feature maps; without it, the perceptual net's

    def require(self, config: TrainConfig) -> None:
        """ValueError if a loss has a weight but not its net."""
        weights = config.weights
        maps = weights.perceptual or (self.contextual is None and weights.contextual)
        needs = {"recogniser": weights.identity, "perceptual": maps}
        for name, weight in needs.items():
            if weight and getattr(self, name) is None:
                raise ValueError(f"a loss with weight {weight} needs the frozen {name}: run the stage `weights` first")


class Objective:
    """The losses of a stage on generated images `(B, 3, H, W)`. Sec. 3.3, Eq. 7.

    Raises ValueError if a loss has a weight but not its frozen net.
    """

    def __init__(self, nets: LossNets, config: TrainConfig, device: str | torch.device = "cpu"):
        nets.require(config)
        self.weights, self.contextual_maps = config.weights, config.contextual_maps
        self.perceptual_same = config.perceptual_same
        self.face_weight = config.face_weight
        self.aligned = config.identity_crop == "aligned"
        placed = (nets.recogniser, nets.perceptual, nets.contextual or nets.perceptual)
        self.recogniser, self.perceptual, self.contextual = (
            net and net.to(device, memory_format=torch.channels_last) for net in placed
        )
        self.channels = nets.channels and [weight.to(device) for weight in nets.channels]

    def __call__(self, batch: Batch, fake: torch.Tensor) -> Values:
        """Each loss with a weight, itself unweighted, by its name in `LossWeights`; the adversarial ones left out."""
        weights, target = self.weights, batch["target"]
        same = batch["same"].float() if "same" in batch else target.new_ones(len(target))
        where = self._window(target)
        values: Values = {}
        if weights.reconstruction:
            values["reconstruction"] = losses.reconstruction(fake, target, same, where)
        if weights.perceptual:
            maps, wanted = _through(self.perceptual, fake, target)
            counted = same if self.perceptual_same else None
            values["perceptual"] = losses.perceptual(maps, wanted, self.channels, counted)
        if weights.contextual:
            if self.contextual is not self.perceptual or not weights.perceptual:
                maps, wanted = _through(self.contextual, fake, target)
            values["contextual"] = sum(losses.contextual(maps[i], wanted[i]) for i in self.contextual_maps)
        if weights.identity:
            # the generated face lies where the target's does
            points = [(batch[f"{name}_points"],) for name in ("target", "source")] if self.aligned else [(), ()]
            found, wanted = _through(self.recogniser, fake, batch["source"], *points)
            values["identity"] = losses.identity(wanted, found)
        if weights.absolute:
            values["absolute"] = losses.absolute(fake, target, same, where)
        if weights.edges:
            values["edges"] = losses.edges(fake, target, same, where)
        if weights.colour:
            values["colour"] = losses.colour(fake, target, 1 - same)
        if weights.border:
            values["border"] = losses.border(fake, target, 1 - same)
        return values

    def cycle(self, batch: Batch, back: torch.Tensor) -> torch.Tensor:
        """The loss `cycle`: what is swapped back is the target, by `absolute` and `edges`, for pairs of two persons."""
        target, other = batch["target"], 1 - batch["same"].float()
        return losses.absolute(back, target, other, self._window(target)) + losses.edges(
            back, target, other, self._window(target)
        )

    def _window(self, target: torch.Tensor) -> torch.Tensor | float:
        """Weights of pixels in the pixel losses."""
        return losses.face_window(target.shape[-1], self.face_weight, target.device) if self.face_weight > 1 else 1.0


def _through(
    net: nn.Module, fake: torch.Tensor, wanted: torch.Tensor, of_fake: tuple = (), of_wanted: tuple = ()
) -> tuple:
    """What a frozen net says of the generated images, with a gradient, and of the wanted ones, without.

    `of_fake` and `of_wanted` are what else it wants to know of each.
    """
    with torch.no_grad():
        constant = net(wanted, *of_wanted)
    return net(fake, *of_fake), constant
