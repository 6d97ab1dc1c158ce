"""One iteration of a training, and the state that a resumed run needs. The loop around it is uniface/train.py."""

import copy
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from uniface import losses
from uniface.config import TASKS, Task, TrainConfig
from uniface.files import atomic_write
from uniface.muon import Muon, is_matrix
from uniface.objective import Batch, LossNets, Objective, Values
from uniface.persons import PersonClassifier, reverse_gradient

FORMAT = "uniface-training-1"


class Generated(NamedTuple):
    """Generated images and the attribute vectors they were made with, where a loss asks for them."""

    image: torch.Tensor
    z_t: torch.Tensor | None = None


class Trainer:
    """Networks, optimisers and the averaged weights of one stage, and what one iteration does with them.

    Without the loss `adversarial` no discriminator is trained. The optimisers are Adam (Sec. 4.1), but for the model's
    matrices with `muon`; the discriminator's is adjusted for its lazy penalty as StyleGAN2 does. `persons`: how many
    the training data show, for the loss `person`; batches then say `person`, `(B,)` from 0, and their classifier learns
    with the generator, as its parts do.
    """

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        discriminator: nn.Module,
        nets: LossNets,
        config: TrainConfig,
        device: str | torch.device = "cpu",
        persons: int = 0,
    ):
        if task not in TASKS:
            raise ValueError(f"task {task!r} is neither of {TASKS}")
        self.objective = Objective(nets, config, device)
        self.task, self.config, self.device = task, config, torch.device(device)
        self.model, self.discriminator = (self._place(net).train() for net in (model, discriminator))
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.step = 0  # iterations done
        self.skipped = 0  # iterations of which an update was left out because something was not finite
        self.bad_in_a_row = 0
        self._bad: list[str] = []  # what was not finite in the iteration at work
        self.curve: list[dict[str, float]] = []  # one row per log, kept in the checkpoint
        named = list(self.model.named_parameters())
        slow = [p for name, p in named if name.startswith("attribute_embedder.")]
        scalars = [p for name, p in named if name.startswith("identity_transfer.") and p.numel() == 1]
        known = {id(p) for p in (*slow, *scalars)}
        self.classifier = None
        if config.weights.person:
            self.classifier = PersonClassifier(model.config.attribute_dim, persons).to(self.device)
            slow += self.classifier.parameters()
        groups = [
            {"params": [p for _, p in named if id(p) not in known], "scale": 1.0},
            {"params": slow, "scale": config.attribute_lr},
            {"params": scalars, "scale": config.scalar_lr},
        ]
        lazy = config.r1_every / (config.r1_every + 1)  # StyleGAN2, Appendix B
        adversary = [{"params": list(self.discriminator.parameters()), "scale": lazy}]
        self.muon = Muon(_only(groups, is_matrix), config.lr) if config.muon else None
        rest = _only(groups, lambda weight: not is_matrix(weight)) if config.muon else groups
        self.optimiser = torch.optim.Adam(rest, config.lr, config.betas, fused=True)
        self.adversary = torch.optim.Adam(adversary, config.lr, tuple(b**lazy for b in config.betas), fused=True)
        self._generate = torch.compile(self.model) if config.compile else self.model
        self._discriminate = torch.compile(self.discriminator) if config.compile else self.discriminator

    def _place(self, net: nn.Module) -> nn.Module:
        return net.to(self.device, memory_format=torch.channels_last)

    def _autocast(self) -> torch.autocast:
        on = self.config.amp and self.device.type == "cuda"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=on)

    def generated(self, batch: Batch) -> Generated:
        """The generated images of a batch, float32 `(B, 3, H, W)`, and with the loss `person` their z_t."""
        images = batch["source"], batch["target"], batch.get("driver")
        with self._autocast():
            if self.classifier is None:
                return Generated(self._generate(*images, task=self.task).float())
            parts = self.model.parts(*images, task=self.task)
            return Generated(parts.image.float(), parts.z_t.float())

    def train_step(self, batch: Batch) -> Values:
        """One iteration over this process's share of the batch; the losses as detached scalars.

        The discriminator learns first. The generator has not changed by then, so the same generated images serve its
        own step; with accumulation their graphs would all have to be kept, so they are made anew.
        """
        self._set_rates()
        self._set_path()
        parts = [self._with_foreign_drivers(part) for part in self._parts(batch)]
        self._bad = []
        fakes = [self.generated(parts[0])] if len(parts) == 1 else None
        values: Values = {}
        if self.adversarial:
            values |= self.discriminator_step(parts, fakes)
        values |= self.generator_step(parts, fakes)
        self._update_average()
        self._count_bad()
        self.step += 1
        return values

    @torch.no_grad()
    def _with_foreign_drivers(self, part: Batch) -> Batch:
        """The first samples' drivers replaced by the next sample's person in the same pose, as the averaged weights
        paint it. Not in the paper: source and driver of one video always share the face, so a z_t that carries it along
        costs nothing; a foreign driver's face would have to be undone.
        """
        count = round(self.config.foreign_drivers * len(part["source"]))
        if not count or self.step < self.config.foreign_from:
            return part
        driver = part.get("driver", part["target"])
        with self._autocast():
            made = self.average(part["source"].roll(-1, 0)[:count], driver[:count], task=self.task)
        return part | {"driver": torch.cat([self._input(made), driver[count:]])}

    def _input(self, made: torch.Tensor) -> torch.Tensor:
        """Generated images as inputs of the model: in their range and, made at half of the size, enlarged."""
        made = made.detach().float().clamp(-1, 1)
        if not self.model.half_size:
            return made
        return F.interpolate(made, scale_factor=2.0, mode="bilinear", align_corners=False)

    def _wanted(self, part: Batch) -> Batch:
        """The batch at the size of the generated images, for the losses."""
        if not self.model.half_size:
            return part
        return part | {name: F.avg_pool2d(part[name], 2) for name in ("source", "target")}

    @property
    def adversarial(self) -> bool:
        """Whether the discriminator takes part in the iteration at work."""
        return bool(self.config.weights.adversarial) and self.step >= self.config.adversarial_from

    def discriminator_step(self, parts: list[Batch], fakes: list[Generated] | None = None) -> Values:
        """One update of the discriminator, and one more for its penalty every `r1_every` iterations (lazy R1)."""
        self.discriminator.requires_grad_(True)
        real_name = "source" if self.task == "reenactment" else "target"  # released code
        values = {"discriminator": torch.zeros((), device=self.device)}
        for i, part in enumerate(parts):
            with torch.no_grad():
                fake = (fakes[i] if fakes else self.generated(part)).image.detach()
            with self._autocast():
                loss = losses.discriminator(self._discriminate(part[real_name]), self._discriminate(fake)) / len(parts)
            loss.backward()
            values["discriminator"] += loss.detach()
        self._update([self.adversary], values)
        if self.config.r1_weight and self.step % self.config.r1_every == 0:
            penalties = {"r1": torch.zeros((), device=self.device)}
            for part in parts:
                real = part[real_name].detach().requires_grad_(True)
                penalty = losses.gradient_penalty(self.discriminator(real), real) / len(parts)
                (penalty * (0.5 * self.config.r1_weight * self.config.r1_every)).backward()
                penalties["r1"] += penalty.detach()
            self._update([self.adversary], penalties)
            values |= penalties
        return values

    def generator_step(self, parts: list[Batch], fakes: list[Generated] | None = None) -> Values:
        """One update of everything but the discriminator. `fakes`: generated images with their graph, if at hand."""
        self.discriminator.requires_grad_(False)
        weights, total = self.config.weights, {}
        for i, part in enumerate(parts):
            fake, z_t = fakes[i] if fakes else self.generated(part)
            with self._autocast():
                values = self.objective(self._wanted(part), fake)
                if self.adversarial:
                    values["adversarial"] = losses.adversarial(self._discriminate(fake))
            if weights.cycle:
                values["cycle"] = self._cycle(part, fake)
            loss = sum(getattr(weights, name) * value for name, value in values.items()) / len(parts)
            if self.classifier is not None:  # its weight acts on the gradient that z_t gets, reversed
                logits = self.classifier(reverse_gradient(z_t, weights.person))
                values["person"] = F.cross_entropy(logits, part["person"])
                loss = loss + values["person"] / len(parts)
            loss.backward()
            for name, value in values.items():
                total[name] = total.get(name, 0) + value.detach() / len(parts)
        self._update([self.optimiser] if self.muon is None else [self.optimiser, self.muon], total)
        return total

    def _cycle(self, part: Batch, fake: torch.Tensor) -> torch.Tensor:
        """Swapping back: another picture of the target's person (`partner`) as the source, and the generated image as
        the target, must give the target. Not in the paper, whose L_rec counts where the target itself is given and
        copying it is right; here the right answer is known although the target given shows somebody else.

        The generated image is a constant: it shall not learn to hide the target in itself.
        """
        with self._autocast():
            back = self._generate(part["partner"], self._input(fake), task=self.task).float()
        return self.objective.cycle(self._wanted(part), back)

    def _parts(self, batch: Batch) -> list[Batch]:
        count = self.config.accumulate
        if len(batch["source"]) % count:
            raise ValueError(f"a batch of {len(batch['source'])} does not divide into {count} parts (accumulate)")
        chunks = {name: values.chunk(count) for name, values in batch.items()}
        return [{name: values[i] for name, values in chunks.items()} for i in range(count)]

    def _set_rates(self) -> None:
        rate = self.config.lr * rate_factor(self.step, self.config)
        for optimiser in filter(None, (self.optimiser, self.muon, self.adversary)):
            for group in optimiser.param_groups:
                group["lr"] = rate * group["scale"]

    def _set_path(self) -> None:
        """The skip connection stays closed until `skip_from`: or swapping copies the target before IdT has learnt. The
        first iterations may see half of the size (not in the paper)."""
        for net in (self.model, self.average):
            net.skip_enabled = self.step >= self.config.skip_from
            net.half_size = self.step < self.config.half_until

    def _update(self, optimisers: list[torch.optim.Optimizer], values: Values) -> None:
        """Average gradients over the processes and step; leave the step out if the gradient is not finite.

        The averaged gradient is the same everywhere, so all processes decide alike.
        """
        groups = [group for optimiser in optimisers for group in optimiser.param_groups]
        parameters = [p for group in groups for p in group["params"] if p.grad is not None]
        average_over_processes([p.grad for p in parameters])
        norm = nn.utils.clip_grad_norm_(parameters, self.config.gradient_clip or math.inf)
        if torch.isfinite(norm):
            for optimiser in optimisers:
                optimiser.step()
        else:
            names = [name for name, value in values.items() if not torch.isfinite(value)]
            self._bad += names or [f"the gradient of {', '.join(values)}"]
        for optimiser in optimisers:
            optimiser.zero_grad(set_to_none=True)

    def _count_bad(self) -> None:
        """Count an iteration with a left-out update; stop after too many in a row."""
        self.skipped += bool(self._bad)
        self.bad_in_a_row = self.bad_in_a_row + 1 if self._bad else 0
        if self.bad_in_a_row >= self.config.max_bad_steps:
            raise FloatingPointError(
                f"{self.task}: {self.bad_in_a_row} iterations in a row were not finite, the last at step {self.step} "
                f"({', '.join(self._bad)}): lower lr, or look at the images"
            )

    @torch.no_grad()
    def _update_average(self) -> None:
        """Move the averaged weights (EMA); the first steps move them faster, or they would stay at the random start."""
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - decay)
        for mine, theirs in zip(self.average.buffers(), self.model.buffers(), strict=True):
            mine.copy_(theirs)

    @torch.no_grad()
    def preview(self, batch: Batch) -> torch.Tensor:
        """What the averaged weights make of a batch's source and target, `(B, 3, H, W)`."""
        return self._input(self.average(batch["source"], batch["target"], task=self.task))

    def state_dict(self) -> dict:
        """All that a resumed run needs: tensors, numbers and strings only."""
        return {
            "format": FORMAT,
            "task": self.task,
            "step": self.step,
            "skipped": self.skipped,
            "bad_in_a_row": self.bad_in_a_row,
            "curve": self.curve,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "adversary": self.adversary.state_dict(),
        } | {name: part.state_dict() for name, part in self._further().items()}

    def _further(self) -> dict[str, Any]:
        """Parts of the state that only some settings have, by name."""
        return {name: part for name in ("classifier", "muon") if (part := getattr(self, name)) is not None}

    def save(self, path: str | Path) -> None:
        """Write the state, atomically."""
        with atomic_write(path) as part:
            torch.save(self.state_dict(), part)

    def load(self, path: str | Path) -> None:
        """Take up the state in `path`.

        Raises FileNotFoundError without it and ValueError if it is damaged, or belongs to another task or model.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"no checkpoint at {path}")
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
        except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
            raise ValueError(f"{path} is damaged or no checkpoint; remove it and train again: {error}") from error
        if not isinstance(state, dict) or state.get("format") != FORMAT:
            raise ValueError(f"{path} is not a training checkpoint of this project (format {FORMAT})")
        if state["task"] != self.task:
            raise ValueError(f"{path} belongs to the task {state['task']}, not {self.task}")
        parts = ["model", "average", "discriminator", "optimiser", "adversary", *self._further()]
        try:
            for name in parts:
                getattr(self, name).load_state_dict(state[name])
        except (RuntimeError, ValueError, KeyError) as error:
            raise ValueError(f"{path} belongs to another configuration of the model: {error}") from error
        self.step, self.skipped, self.bad_in_a_row = state["step"], state["skipped"], state["bad_in_a_row"]
        self.curve = state["curve"]


def _only(groups: list[dict], wanted: Callable[[torch.Tensor], bool]) -> list[dict]:
    """The groups of parameters with the wanted ones only."""
    return [group | {"params": [p for p in group["params"] if wanted(p)]} for group in groups]


def rate_factor(step: int, config: TrainConfig) -> float:
    """The factor on the learning rate of iteration `step` (from 0): a linear rise, a level, a linear fall to 3 %."""
    rise = min(1.0, (step + 1) / config.warm_up) if config.warm_up else 1.0
    start = config.decay_from * config.iterations
    fall = 1.0 if step < start else 1.0 - 0.97 * (step - start) / max(1.0, config.iterations - start)
    return rise * fall


def processes() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def average_over_processes(tensors: list[torch.Tensor]) -> None:
    """Replace tensors of one dtype by their mean over all processes, in one message."""
    if processes() == 1 or not tensors:
        return
    flat = torch.cat([t.flatten() for t in tensors])
    dist.all_reduce(flat)
    flat /= processes()
    for tensor, mean in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(mean.view(tensor.shape))
