"""The loop: resumes bit for bit, scales over processes, skips what is not finite, hands one embedder to stage 2."""

import dataclasses
import os

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from uniface import train as loop
from uniface.config import LossWeights, TrainConfig
from uniface.objective import Frozen

SIZE = 16
WEIGHTS = LossWeights(
    adversarial=0.5,
    reconstruction=1.0,
    perceptual=1.0,
    identity=1.0,
    contextual=0.0,
    absolute=0.5,
    edges=0.5,
    colour=0.5,
    border=0.5,
    attribute=0.5,
)
CONFIG = TrainConfig(
    iterations=10,
    batch_size=4,
    accumulate=1,
    weights=WEIGHTS,
    lr=2e-3,
    betas=(0.0, 0.99),
    attribute_lr=0.1,
    gate_lr=0.5,
    warm_up=3,
    decay_from=0.5,
    ema=0.9,
    r1_weight=1.0,
    r1_every=4,
    gradient_clip=5.0,
    driver_augmentation=(),
    skip_from=0,
    adversarial_from=0,
    contextual_maps=(0,),
    amp=False,
    compile=False,
    max_bad_steps=3,
    log_every=2,
    sample_every=5,
    checkpoint_every=2,
)


class Small(nn.Module):
    """The interface of UniFace, with two convolutions."""

    def __init__(self):
        super().__init__()
        self.attribute_embedder = nn.Conv2d(3, 4, 3, 1, 1)
        self.generator = nn.Conv2d(7, 3, 3, 1, 1)
        self.skip_enabled = True

    def reenact(self, source, target, driver=None):
        attributes = self.attribute_embedder(target if driver is None else driver)
        if not self.skip_enabled:
            source = torch.zeros_like(source)
        return self.generator(torch.cat([source, attributes], 1))

    swap = reenact


class Critic(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, 2, 1)
        self.out = nn.Linear(4, 1)

    def forward(self, images):
        return self.out(F.softplus(self.conv(images)).mean((2, 3)))


class Maps(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 6, 3, 2, 1)

    def forward(self, images):
        first = self.first(images).tanh()
        return [first, self.second(first).tanh()]


class Vector(Maps):
    def forward(self, images):
        return F.normalize(super().forward(images)[1].mean((2, 3)), dim=1)


def frozen() -> Frozen:
    torch.manual_seed(7)
    nets = [Vector(), Maps(), Vector()]
    for net in nets:
        net.eval().requires_grad_(False)
    return Frozen(recogniser=nets[0], perceptual=nets[1], regressor=nets[2])


def trainer(config: TrainConfig = CONFIG, task: str = "swapping") -> loop.Trainer:
    torch.manual_seed(0)
    return loop.Trainer(task, Small(), Critic(), frozen(), config)


def batches(start: int = 0, rank: int = 0, world: int = 1, size: int = 4):
    """Endless batches by step; two ranks with half the size see together what one sees."""
    step = start
    while True:
        draw = torch.Generator().manual_seed(step)
        images = {name: torch.rand(size, 3, SIZE, SIZE, generator=draw) * 2 - 1 for name in ("source", "target")}
        images["same"] = (torch.arange(size) % 4 == 0).float()
        yield {name: value[rank::world] for name, value in images.items()}
        step += 1


def assert_equal_states(a: dict, b: dict) -> None:
    assert a.keys() == b.keys()
    for key, value in a.items():
        if isinstance(value, dict):
            assert_equal_states(value, b[key])
        elif isinstance(value, torch.Tensor):
            assert torch.equal(value, b[key]), key
        else:
            assert value == b[key], key


@pytest.mark.parametrize("stop", [2, 6])
def test_resume_is_bit_exact(tmp_path, stop):
    """Weights, averaged weights, both optimisers, counters and the curve."""
    whole = trainer()
    loop.train(whole, batches())

    first = trainer()
    path = tmp_path / "state.pt"

    class Killed(Exception):
        pass

    def checkpoint(step):
        first.save(path)
        if step == stop:
            raise Killed

    with pytest.raises(Killed):
        loop.train(first, batches(), on_checkpoint=checkpoint)
    torch.manual_seed(99)  # a new process has other random numbers
    second = loop.Trainer("swapping", Small(), Critic(), frozen(), CONFIG)
    second.load(path)
    assert second.step == stop
    loop.train(second, batches(start=stop))
    assert_equal_states(whole.state_dict(), second.state_dict())
    assert len(second.curve) == 5


def _train_as_one_of_two(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder}/rendezvous"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    mine = trainer()
    loop.train(mine, batches(rank=rank, world=2))
    mine.save(f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_workers_equal_one_with_the_joint_batch(tmp_path):
    """Ten steps; no term of these losses looks across the batch."""
    one = trainer()
    loop.train(one, batches())
    context = torch.multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch"])  # imported once for both
    workers = [context.Process(target=_train_as_one_of_two, args=(rank, str(tmp_path))) for rank in (0, 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0
    both = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    for part in ("model", "average"):
        for name, value in getattr(one, part).state_dict().items():
            assert torch.equal(both[0][part][name], both[1][part][name]), name
            torch.testing.assert_close(both[0][part][name], value, atol=1e-5, rtol=0)
    for mine, theirs in zip(one.curve, both[0]["curve"], strict=True):
        assert mine == pytest.approx(theirs, abs=1e-4)


def test_accumulation_equals_the_whole_batch():
    states = []
    for parts in (1, 2):
        mine = trainer(dataclasses.replace(CONFIG, accumulate=parts))
        loop.train(mine, batches())
        states.append(mine.model.state_dict())
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, atol=1e-5, rtol=0)


def test_accumulation_must_divide_the_batch():
    with pytest.raises(ValueError, match="a batch of 4 does not divide into 3 parts"):
        loop.train(trainer(dataclasses.replace(CONFIG, accumulate=3)), batches())


def test_one_bad_step_is_skipped_and_counted():
    """The weights after a NaN batch are those before it, and training goes on."""
    mine, seen = trainer(), []
    stream = batches()
    good, bad = next(stream), next(stream)
    bad["source"] = bad["source"] * float("nan")
    mine.train_step(good)
    before = {k: v.clone() for k, v in mine.model.state_dict().items()}
    mine.train_step(bad)
    for name, value in mine.model.state_dict().items():
        assert torch.equal(value, before[name])
    assert mine.skipped == 1
    loop.train(mine, batches(start=2), on_log=lambda step, values: seen.append(values))
    assert all(torch.isfinite(v).all() for v in mine.model.state_dict().values())
    assert not torch.equal(mine.model.generator.weight, before["generator.weight"])
    assert (seen[-1]["skipped"], mine.bad_in_a_row) == (1, 0)


@pytest.mark.parametrize(("name", "loss"), [("target", "discriminator"), ("source", "reconstruction")])
def test_many_bad_steps_stop_with_their_names(name, loss):
    """Also where the discriminator, which does not see the swap's source, goes on well in between."""
    mine = trainer(
        dataclasses.replace(CONFIG, weights=dataclasses.replace(WEIGHTS, adversarial=float(name == "target")))
    )

    def broken():
        for batch in batches():
            yield batch | {name: batch[name] * float("nan")}

    with pytest.raises(FloatingPointError, match=rf"swapping: 3 iterations in a row .* at step 2 .*{loss}"):
        loop.train(mine, broken())


def test_damaged_and_foreign_checkpoints_are_refused(tmp_path):
    mine, path = trainer(), tmp_path / "state.pt"
    mine.save(path)
    with pytest.raises(ValueError, match="belongs to the task swapping, not reenactment"):
        trainer(task="reenactment").load(path)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ValueError, match="damaged"):
        mine.load(path)
    torch.save({"weights": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match="not a training checkpoint"):
        mine.load(path)
    torch.save({**mine.state_dict(), "model": {"other": torch.zeros(3)}}, path)
    with pytest.raises(ValueError, match="another configuration"):
        mine.load(path)
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        mine.load(tmp_path / "none.pt")


class Payload:
    """What a hostile checkpoint would run when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_checkpoint_runs_no_code(tmp_path):
    torch.save({"format": loop.FORMAT, "payload": Payload(tmp_path / "ran")}, tmp_path / "state.pt")
    with pytest.raises(ValueError, match="damaged or no checkpoint"):
        trainer().load(tmp_path / "state.pt")
    assert not (tmp_path / "ran").exists()


def test_failed_save_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    mine, path = trainer(), tmp_path / "state.pt"
    mine.save(path)
    before = path.read_bytes()

    def full(state, file):
        file.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError):
        mine.save(path)
    assert path.read_bytes() == before


def test_swapping_starts_from_the_attribute_embedder_alone(tmp_path):
    torch.manual_seed(1)
    stage1, stage2 = Small(), Small()
    save_file(stage1.state_dict(), tmp_path / "reenactment.safetensors")
    generator = stage2.generator.weight.clone()
    loop.start_from_reenactment(stage2, tmp_path / "reenactment.safetensors")
    assert torch.equal(stage2.attribute_embedder.weight, stage1.attribute_embedder.weight)
    assert torch.equal(stage2.generator.weight, generator)
    assert not torch.equal(stage2.generator.weight, stage1.generator.weight)


def test_swapping_needs_a_fitting_stage_1(tmp_path):
    with pytest.raises(FileNotFoundError, match="train stage 1 first"):
        loop.start_from_reenactment(Small(), tmp_path / "none.safetensors")
    save_file({"attribute_embedder.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="another attribute embedder"):
        loop.start_from_reenactment(Small(), tmp_path / "other.safetensors")


def test_overfits_one_pair():
    config = dataclasses.replace(
        CONFIG,
        iterations=200,
        lr=1e-2,
        attribute_lr=1.0,
        weights=dataclasses.replace(WEIGHTS, adversarial=0.0, identity=0.0, perceptual=0.0, attribute=0.0),
    )
    mine, seen = trainer(config, "reenactment"), []
    grid = torch.linspace(-1, 1, SIZE)
    target = torch.stack([grid.expand(SIZE, SIZE), grid[:, None].expand(SIZE, SIZE), torch.zeros(SIZE, SIZE)])[None]
    source = target.flip(1)

    def one_pair():
        while True:
            yield {"source": source, "target": target}

    loop.train(mine, one_pair(), on_log=lambda step, values: seen.append(values["reconstruction"]))
    assert seen[-1] < 0.02 * seen[0]
    assert F.mse_loss(mine.preview({"source": source, "target": target}), target) < 0.02 * seen[0]


def test_the_generated_images_serve_both_steps():
    """One generator forward an iteration, and the same update as with a forward for each step."""
    shared, separate = trainer(), trainer()
    calls = []
    call = shared._call
    shared._call = lambda *images: calls.append(1) or call(*images)
    batch = next(batches())
    shared.train_step(batch)
    assert len(calls) == 1
    separate._set_rates()
    separate.discriminator_step([batch])
    separate.generator_step([batch])
    assert_equal_states(shared.model.state_dict(), separate.model.state_dict())
    assert_equal_states(shared.discriminator.state_dict(), separate.discriminator.state_dict())


def test_penalty_is_lazy_and_real_is_the_releases_choice():
    """R1 at steps 0, 4, 8; for reenactment the discriminator's real image is the source."""
    mine = trainer(task="reenactment")
    steps = [step for step in range(9) if "r1" in mine.train_step(next(batches(step)))]
    assert steps == [0, 4, 8]
    seen = []
    mine._judge = lambda images: seen.append(images) or mine.discriminator(images)
    batch = next(batches())
    mine.discriminator_step([batch])
    assert torch.equal(seen[0], batch["source"])


def test_generator_step_leaves_the_discriminator_alone():
    mine = trainer()
    before = {k: v.clone() for k, v in mine.discriminator.state_dict().items()}
    mine.generator_step([next(batches())])
    assert_equal_states(mine.discriminator.state_dict(), before)
    assert all(p.grad is None for p in mine.discriminator.parameters())


def test_weights_of_zero_compute_nothing():
    config = dataclasses.replace(
        CONFIG, weights=LossWeights(**dict.fromkeys(dataclasses.asdict(WEIGHTS), 0.0) | {"reconstruction": 1.0})
    )
    torch.manual_seed(0)
    mine = loop.Trainer("swapping", Small(), Critic(), Frozen(), config)
    assert mine.train_step(next(batches())).keys() == {"reconstruction"}


def test_a_loss_without_its_net_is_refused():
    with pytest.raises(ValueError, match="needs the frozen recogniser"):
        loop.Trainer("swapping", Small(), Critic(), Frozen(), CONFIG)


def test_rates_rise_stay_and_fall():
    config = dataclasses.replace(CONFIG, iterations=100, warm_up=10, decay_from=0.5)
    factors = [loop.rate_factor(step, config) for step in (0, 9, 30, 50, 75, 99)]
    assert factors == pytest.approx([0.1, 1, 1, 1, 1 - 0.97 / 2, 1 - 0.97 * 49 / 50])
    mine = trainer()
    mine.train_step(next(batches()))
    rates = [group["lr"] for group in mine.optimiser.param_groups]
    assert rates == pytest.approx([CONFIG.lr / 3, 0.1 * CONFIG.lr / 3, 0.5 * CONFIG.lr / 3])
    assert mine.adversary.param_groups[0]["lr"] == pytest.approx(CONFIG.lr / 3 * 4 / 5)


def test_average_follows_the_weights():
    mine = trainer()
    start = mine.average.generator.weight.clone()
    mine.train_step(next(batches()))
    expected = start.lerp(mine.model.generator.weight, 1 - 1 / 10)  # early steps move it fast
    torch.testing.assert_close(mine.average.generator.weight, expected)


def test_driver_replaces_the_target_for_the_attribute_embedder():
    mine = trainer()
    batch = next(batches())
    driven = mine.generate(batch | {"driver": batch["target"].flip(3)})
    assert not torch.equal(driven, mine.generate(batch))
    assert torch.equal(mine.generate(batch | {"driver": batch["target"]}), mine.generate(batch))


def test_data_that_ends_is_an_error():
    stream = batches()
    with pytest.raises(ValueError, match="the data ended at step 2 of 10"):
        loop.train(trainer(), [next(stream), next(stream)])


def test_callables_are_called_when_due():
    logs, samples, checkpoints = [], [], []
    config = dataclasses.replace(CONFIG, iterations=7)
    loop.train(trainer(config), batches(), lambda s, v: logs.append(s), checkpoints.append, samples.append)
    assert (logs, samples, checkpoints) == ([2, 4, 6, 7], [5, 7], [2, 4, 6, 7])


def test_checkpoints_lie_on_logs():
    with pytest.raises(ValueError, match="checkpoint_every 3 is no multiple of log_every 2"):
        dataclasses.replace(CONFIG, checkpoint_every=3)


def test_adversary_joins_when_due():
    mine = trainer(dataclasses.replace(CONFIG, adversarial_from=2))
    before = {k: v.clone() for k, v in mine.discriminator.state_dict().items()}
    seen = []
    for step in range(3):
        seen.append({"discriminator", "adversarial"} & mine.train_step(next(batches(step))).keys())
        if step < 2:
            assert_equal_states(mine.discriminator.state_dict(), before)
    assert seen == [set(), set(), {"discriminator", "adversarial"}]
    assert not torch.equal(mine.discriminator.conv.weight, before["conv.weight"])


def test_skip_opens_when_due():
    mine = trainer(dataclasses.replace(CONFIG, skip_from=2))
    open_at = []
    for step in range(4):
        mine.train_step(next(batches(step)))
        open_at.append((mine.model.skip_enabled, mine.average.skip_enabled))
    assert open_at == [(False, False), (False, False), (True, True), (True, True)]
