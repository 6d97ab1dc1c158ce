"""A full training iteration at the paper's size beside the same one as the released code computes it.

    python -m benchmarks.train_step [--device cpu|cuda] [--batch N] [--size 256] [--checkpointing] [--largest]

Plain: float32, no channels_last, gamma and beta by one convolution each, every sample's weights repeated into a
grouped convolution, separate blur, bias, activation and gain, another generator forward for the discriminator's step;
all else is shared, activations in place of the embedders and the discriminator too.
Ours: what `uniface/` does (on a GPU in bf16). Same sizes, losses and lazy R1 (every 16 iterations) in both, random
weights; a VGG16 and a ResNet-50 of random weights stand in for the frozen nets. With --checkpointing both forms
recompute the activations of their blocks: swapping with a batch of 8 then takes 14 GB on a CPU. Prints JSON: seconds
an iteration (on a CPU of processor time) and their ratio.
"""

import argparse
import dataclasses
import gc
import json
import time
import types

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pipeline.params import load
from uniface.backbones import Perceptual, Recogniser
from uniface.config import ModelConfig, TrainConfig
from uniface.discriminator import Discriminator
from uniface.layers import SLOPE, ModulatedConv
from uniface.model import UniFace
from uniface.objective import Batch, LossNets, Values
from uniface.trainer import Trainer


class PlainTrainer(Trainer):
    """The same iteration with the default layout and a second generator forward."""

    def _place(self, net: nn.Module) -> nn.Module:
        return net.to(self.device)

    def train_step(self, batch: Batch) -> Values:
        self._set_rates()
        values = self.discriminator_step([batch]) | self.generator_step([batch])
        self._update_average()
        self.step += 1
        return values


def released_forward(layer: ModulatedConv, x: torch.Tensor, stylemap: torch.Tensor) -> torch.Tensor:
    """ModulatedConv as the release's form of it: the same result, one group a sample."""
    batch, channels = x.shape[:2]
    weight, bias = layer.modulation.weight * layer.modulation.scale, layer.modulation.bias
    padding = weight.shape[-1] // 2
    gamma = F.conv2d(stylemap, weight[:channels], bias[:channels], padding=padding)
    beta = F.conv2d(stylemap, weight[channels:], bias[channels:], padding=padding)
    x = F.layer_norm(x, x.shape[1:]) * gamma + beta
    kernel = (layer.weight * (layer.scale / layer.gain)).repeat(batch, 1, 1, 1, 1)  # (B, O, I, k, k)
    out_channels, size = kernel.shape[1], kernel.shape[-1]
    x = x.reshape(1, batch * channels, *x.shape[2:])
    if layer.sampling == "up":
        kernel = kernel.transpose(1, 2).reshape(batch * channels, out_channels, size, size)
        out = F.conv_transpose2d(x, kernel, stride=2, groups=batch)
        out = layer.blur(out.reshape(batch, out_channels, *out.shape[2:]))
    else:
        kernel = kernel.reshape(batch * out_channels, channels, size, size)
        out = F.conv2d(x, kernel, padding=size // 2, groups=batch)
        out = out.reshape(batch, out_channels, *out.shape[2:])
    out = out + layer.bias[:, None, None]
    return F.leaky_relu(out, SLOPE) * layer.gain if layer.activate else out


def as_released(model: UniFace) -> UniFace:
    """The model with every modulated convolution in the release's form."""
    for module in model.modules():
        if isinstance(module, ModulatedConv):
            module.forward = types.MethodType(released_forward, module)
    return model


def frozen_nets(device: str) -> LossNets:
    """Nets of the paper's sizes, with random weights: only their time matters."""
    import torchvision

    class Maps(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torchvision.models.vgg16(weights=None).features[:30]
            for layer in self.layers:
                if isinstance(layer, nn.ReLU):
                    layer.inplace = False

        def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            maps = []
            for i, layer in enumerate(self.layers):
                x = layer(x)
                if i in (3, 8, 15, 22, 29):
                    maps.append(x)
            return maps

    resnet = torchvision.models.resnet50(weights=None)
    return LossNets(recogniser=Recogniser(resnet).to(device), perceptual=Perceptual(Maps()).to(device))


def trainer(kind: type[Trainer], task: str, model: ModelConfig, config: TrainConfig, device: str) -> Trainer:
    torch.manual_seed(0)
    net = UniFace(model)
    if kind is PlainTrainer:
        net, config = as_released(net), dataclasses.replace(config, amp=False)
    return kind(task, net, Discriminator(model), frozen_nets(device), config, device)


def set_checkpointing(mine: Trainer, enabled: bool) -> None:
    """Recompute the activations of both networks' blocks in the backward pass, or keep them."""
    mine.model.set_checkpointing(enabled)
    mine.discriminator.checkpointing = enabled


def seconds(mine: Trainer, batch: Batch, repeats: int) -> dict[str, float]:
    """Seconds of an iteration with R1 and without, and of the mean one."""

    gpu = mine.device.type == "cuda"
    clock = time.perf_counter if gpu else time.process_time

    def measured(step: int) -> float:
        times = []
        for _ in range(repeats):
            mine.step = step
            _wait(mine.device)
            began = clock()
            mine.train_step(batch)
            _wait(mine.device)
            times.append(clock() - began)
        return sorted(times)[len(times) // 2]

    mine.train_step(batch if gpu else one_image(batch))  # memory, kernels
    lazy, plain = measured(0), measured(1)
    share = 1 / mine.config.r1_every
    return {"with_r1": lazy, "without": plain, "mean": share * lazy + (1 - share) * plain}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def batch_of(size: int, images: int, device: str) -> Batch:
    """Random images; one in five pairs is of one image."""
    draw = torch.Generator().manual_seed(1)
    pictures = {
        name: (torch.rand(images, 3, size, size, generator=draw) * 2 - 1).to(device) for name in ("source", "target")
    }
    return pictures | {"same": (torch.arange(images) % 5 == 0).to(device)}


def one_image(batch: Batch) -> Batch:
    """The first pair of a batch."""
    return {name: values[:1] for name, values in batch.items()}


def compare(task: str, args: argparse.Namespace) -> dict:
    """Both forms of one task in one run."""
    params = load("params.paper.yaml")
    config = {"reenactment": params.train_reenactment, "swapping": params.train_swapping}[task]
    config = dataclasses.replace(config, contextual_maps=(2, 3))
    model = dataclasses.replace(params.model, image_size=args.size)
    batch = batch_of(args.size, args.batch, args.device)
    if args.device == "cuda":
        batch = {k: v.contiguous(memory_format=torch.channels_last) if v.ndim == 4 else v for k, v in batch.items()}
    found: dict = {name: getattr(args, name) for name in ("device", "batch", "size", "checkpointing")} | {"task": task}
    for name, kind in (("plain", PlainTrainer), ("ours", Trainer)):
        if args.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        mine = trainer(kind, task, model, config, args.device)
        gc.collect()  # the one before, whose replaced forwards refer to their own modules
        set_checkpointing(mine, args.checkpointing)
        found[name] = seconds(mine, batch, args.repeats)
        if args.device == "cuda":
            found[f"{name}_peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
    set_checkpointing(mine, False)  # to count nothing twice
    with FlopCounterMode(display=False) as counter:
        mine.step = 1
        mine.train_step(one_image(batch))
    found["tflop_without_r1"] = args.batch * counter.get_total_flops() / 1e12
    found["ours_tflops"] = found["tflop_without_r1"] / found["ours"]["without"]
    found["ratio"] = found["plain"]["mean"] / found["ours"]["mean"]
    return found


def largest_batch(task: str, args: argparse.Namespace) -> int:
    """The largest multiple of 8 that fits into the GPU's memory."""
    params = load("params.paper.yaml")
    config = {"reenactment": params.train_reenactment, "swapping": params.train_swapping}[task]
    config = dataclasses.replace(config, contextual_maps=(2, 3))
    mine = trainer(Trainer, task, dataclasses.replace(params.model, image_size=args.size), config, args.device)
    set_checkpointing(mine, args.checkpointing)
    fits = 0
    for images in range(8, 264, 8):
        try:
            mine.step = 0
            mine.train_step(batch_of(args.size, images, args.device))
        except torch.OutOfMemoryError:
            break
        fits = images
    return fits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--batch", type=int, default=0, help="pairs; default 8 on a GPU (Sec. 4.1), 2 on a CPU")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=0, help="default 10 on a GPU, 1 on a CPU")
    parser.add_argument("--task", choices=("reenactment", "swapping"), help="default: both")
    parser.add_argument("--checkpointing", action="store_true", help="recompute activations in both: less memory")
    parser.add_argument("--largest", action="store_true", help="also find the largest batch (GPU)")
    args = parser.parse_args()
    gpu = args.device == "cuda"
    args.batch, args.repeats = args.batch or (8 if gpu else 2), args.repeats or (10 if gpu else 1)
    for task in [args.task] if args.task else ("reenactment", "swapping"):
        found = compare(task, args)
        if args.largest and gpu:
            found["largest_batch"] = largest_batch(task, args)
        print(json.dumps(found, indent=1), flush=True)


if __name__ == "__main__":
    main()
