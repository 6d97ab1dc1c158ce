"""The loop: steps, losses, schedules and what it calls when."""

import dataclasses

import pytest
import tiny
import torch
import torch.nn.functional as F
from small_trainer import CONFIG, SIZE, WEIGHTS, Critic, Small, assert_equal_states, batches, trainer

from uniface import train as loop
from uniface.config import LossWeights
from uniface.model import UniFace
from uniface.objective import LossNets
from uniface.trainer import Trainer, rate_factor


def test_overfits_one_pair():
    config = dataclasses.replace(
        CONFIG,
        iterations=200,
        lr=1e-2,
        attribute_lr=1.0,
        weights=dataclasses.replace(WEIGHTS, adversarial=0.0, identity=0.0, perceptual=0.0),
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
    call = shared._generate
    shared._generate = lambda *images, **task: calls.append(1) or call(*images, **task)
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
    mine._discriminate = lambda images: seen.append(images) or mine.discriminator(images)
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
    mine = Trainer("swapping", Small(), Critic(), LossNets(), config)
    assert mine.train_step(next(batches())).keys() == {"reconstruction"}


def test_a_loss_without_its_net_is_refused():
    with pytest.raises(ValueError, match="needs the frozen recogniser"):
        Trainer("swapping", Small(), Critic(), LossNets(), CONFIG)


def test_rates_rise_stay_and_fall():
    config = dataclasses.replace(CONFIG, iterations=100, warm_up=10, decay_from=0.5)
    factors = [rate_factor(step, config) for step in (0, 9, 30, 50, 75, 99)]
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
    driven = mine.generated(batch | {"driver": batch["target"].flip(3)}).image
    assert not torch.equal(driven, mine.generated(batch).image)
    assert torch.equal(mine.generated(batch | {"driver": batch["target"]}).image, mine.generated(batch).image)


def test_foreign_drivers_are_the_next_person_as_the_averaged_weights_paint_it():
    config = dataclasses.replace(CONFIG, foreign_drivers=0.5, foreign_from=2)
    mine, seen = trainer(config, "reenactment"), []
    mine.model.attribute_embedder.register_forward_pre_hook(lambda net, inputs: seen.append(inputs[0]))
    stream = batches()
    for step in range(3):
        batch = next(stream) | {"driver": torch.full((4, 3, SIZE, SIZE), 0.5)}
        with torch.no_grad():
            next_person = batch["source"][[1, 2]]
            made = mine.average(next_person, batch["driver"][:2], task="reenactment").clamp(-1, 1)
        mine.train_step(batch)
        assert torch.equal(seen[-1][2:], batch["driver"][2:])
        assert torch.equal(seen[-1][:2], made if step == 2 else batch["driver"][:2])


def test_the_cycle_swaps_the_generated_image_back_to_the_target():
    weights = LossWeights(**dict.fromkeys(dataclasses.asdict(WEIGHTS), 0.0) | {"cycle": 2.0})
    mine = trainer(dataclasses.replace(CONFIG, weights=weights))
    batch = next(batches()) | {"partner": torch.rand(4, 3, SIZE, SIZE)}
    fake = mine.generated(batch).image.detach().clamp(-1, 1)
    back = mine.generated({"source": batch["partner"], "target": fake}).image
    expected = mine.objective.cycle(batch, back)
    expected.backward()
    wanted = {name: 2.0 * p.grad.clone() for name, p in mine.model.named_parameters()}
    for p in mine.model.parameters():
        p.grad = None
    seen = {}
    mine._update = lambda optimiser, values: seen.update({n: p.grad.clone() for n, p in mine.model.named_parameters()})
    values = mine.generator_step([batch])
    assert values["cycle"].item() == pytest.approx(expected.item())
    for name, gradient in wanted.items():  # none through the generated image
        torch.testing.assert_close(seen[name], gradient)


def test_half_of_the_size_until_told():
    """Losses and the update are those of a model of halved pictures; the foreign drivers and the preview are whole."""
    config = dataclasses.replace(
        CONFIG,
        half_until=1,
        foreign_drivers=0.5,
        weights=LossWeights(**dict.fromkeys(dataclasses.asdict(WEIGHTS), 0.0) | {"reconstruction": 1.0}),
    )
    torch.manual_seed(0)
    small = {"feature_stride": 4, "synthesis": "none", "skip_strides": (), "attribute_norm": "group"}
    mine = Trainer("reenactment", UniFace(tiny.config(**small)), Critic(), LossNets(), config)
    source, target = tiny.images(2, seed=1), tiny.images(2, seed=2)
    for step in range(2):
        seen = []
        objective = mine.objective
        mine.objective = lambda batch, fake, seen=seen, call=objective: seen.append((batch, fake)) or call(batch, fake)
        mine.train_step({"source": source, "target": target})
        ((batch, fake),) = seen
        assert fake.shape == batch["target"].shape == (2, 3, *[(16, 32)[step]] * 2)
        assert mine.preview({"source": source, "target": target}).shape == (2, 3, 32, 32)
        mine.objective = objective


def test_the_discriminator_waits_for_the_whole_size():
    with pytest.raises(ValueError, match="wait for half_until"):
        dataclasses.replace(CONFIG, half_until=4, adversarial_from=3)
    with pytest.raises(ValueError, match="whole size never comes"):
        dataclasses.replace(CONFIG, half_until=10, adversarial_from=0)


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
    with pytest.raises(ValueError, match="checkpoint_every is 3: no multiple of log_every, 2"):
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
