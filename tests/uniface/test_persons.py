"""The classifier of persons behind the gradient reversal: its gradients, its learning and its place in the state."""

import dataclasses

import pytest
import tiny
import torch
from small_trainer import CONFIG, WEIGHTS, assert_equal_states

from uniface import train as loop
from uniface.discriminator import Discriminator
from uniface.model import UniFace
from uniface.objective import LossNets
from uniface.persons import PersonClassifier, reverse_gradient
from uniface.trainer import Trainer

PERSONS = 3


def trainer(weight: float, **changes) -> Trainer:
    weights = dataclasses.replace(WEIGHTS, identity=0.0, perceptual=0.0, adversarial=0.0, person=weight)
    config = dataclasses.replace(CONFIG, weights=weights, **changes)
    torch.manual_seed(0)
    model = tiny.config(attribute_norm="group", attribute_base=4)
    return Trainer("reenactment", UniFace(model), Discriminator(model), LossNets(), config, persons=PERSONS)


def batches(start: int = 0):
    """Endless batches of drawings of three persons, each of another brightness."""
    step = start
    while True:
        person = torch.arange(6) % PERSONS
        brightness = (person[:, None, None, None] - 1) * 0.5
        images = {
            name: tiny.images(6, seed=2 * step + n) * 0.4 + brightness for n, name in enumerate(("source", "target"))
        }
        yield images | {"person": person}
        step += 1


def test_the_gradient_is_reversed_and_weighted():
    x = torch.randn(4, 5, requires_grad=True)
    assert torch.equal(reverse_gradient(x, 0.3), x)
    reverse_gradient(x, 0.3).square().sum().backward()
    torch.testing.assert_close(x.grad, -0.3 * 2 * x.detach())


def test_the_classifier_learns_and_z_t_forgets():
    """With a weight near 0 the persons are told from z_t; with a large one they are not."""
    found = {}
    for weight in (1e-6, 3.0):
        mine, seen = trainer(weight, iterations=60, lr=2e-2, log_every=20, checkpoint_every=20), []
        loop.train(mine, batches(), on_log=lambda step, values, seen=seen: seen.append(values["person"]))
        found[weight] = seen[-1]
    assert found[1e-6] < 0.5 < 0.8 < found[3.0]


def test_only_the_attribute_embedder_and_the_classifier_get_its_gradient():
    mine = trainer(1.0)
    batch = next(batches())
    made = mine.generated(batch)
    mine.classifier(reverse_gradient(made.z_t, 1.0)).square().sum().backward()
    reached = {name.split(".")[0] for name, p in mine.model.named_parameters() if p.grad is not None}
    assert reached == {"attribute_embedder"}
    assert all(p.grad is not None for p in mine.classifier.parameters())


@pytest.mark.parametrize("stop", [2, 6])
def test_resume_is_bit_exact_and_the_classifier_stays_out_of_the_model(tmp_path, stop):
    whole = trainer(0.3)
    loop.train(whole, batches())
    first = trainer(0.3, iterations=10)
    stream = batches()
    for _ in range(stop):
        first.train_step(next(stream))
    first.save(tmp_path / "state.pt")
    second = trainer(0.3)
    second.load(tmp_path / "state.pt")
    loop.train(second, batches(start=stop))
    a, b = whole.state_dict(), second.state_dict()
    assert "classifier" in a
    assert_equal_states({k: v for k, v in a.items() if k != "curve"}, {k: v for k, v in b.items() if k != "curve"})
    assert a["model"].keys() == trainer(0.0).model.state_dict().keys()


def test_a_state_of_other_persons_is_refused(tmp_path):
    mine = trainer(0.3)
    mine.save(tmp_path / "state.pt")
    other = trainer(0.3)
    other.classifier = PersonClassifier(16, PERSONS + 1)
    with pytest.raises(ValueError, match="another configuration"):
        other.load(tmp_path / "state.pt")


def test_one_person_is_not_enough():
    with pytest.raises(ValueError, match="needs training videos of two persons, there are 1"):
        PersonClassifier(16, 1)
