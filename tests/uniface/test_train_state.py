"""The trainer's state: resuming, several workers, bad steps, checkpoints, and what stage 2 takes from stage 1."""

import dataclasses
import os

import pytest
import torch
from safetensors.torch import save_file
from small_trainer import CONFIG, WEIGHTS, Critic, Small, assert_equal_states, batches, frozen, trainer

from uniface import train as loop
from uniface.trainer import FORMAT, Trainer


@pytest.mark.parametrize(("stop", "muon"), [(2, False), (6, False), (6, True)])
def test_resume_is_bit_exact(tmp_path, monkeypatch, stop, muon):
    """Weights, averaged weights, all optimisers, counters and the curve."""
    monkeypatch.setattr("uniface.muon.LEAST", 3)  # the nets are small
    config = dataclasses.replace(CONFIG, muon=muon)
    whole = trainer(config)
    loop.train(whole, batches())

    first = trainer(config)
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
    second = Trainer("swapping", Small(), Critic(), frozen(), config)
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
    torch.save({"format": FORMAT, "payload": Payload(tmp_path / "ran")}, tmp_path / "state.pt")
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
