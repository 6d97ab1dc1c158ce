"""The served model's requests: what it takes, in which order it answers, what it says to a bad one."""

import base64
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from small_requests import TINY, face, text

from pipeline.tracking import serving
from uniface.images import to_tensor, to_uint8
from uniface.model import UniFace
from uniface.use import origin


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for seed, task in enumerate(serving.TASKS):
        torch.manual_seed(seed)
        UniFace(TINY).save(folder / f"{task}.safetensors")
    served = serving.FaceModel()
    served.load_context(
        SimpleNamespace(
            artifacts={task: str(folder / f"{task}.safetensors") for task in serving.TASKS},
            model_config={"image_size": 32, "batch_size": 2},
        )
    )
    return served


def test_decode_takes_text_arrays_and_lists():
    image = face(0)
    for value in (text(image), text(image).encode(), "data:image/png;base64," + text(image), image, image.tolist()):
        assert np.array_equal(serving.decode(value), image)
    assert serving.decode(text(image, "JPEG")).shape == (32, 32, 3)
    assert np.array_equal(serving.decode(serving.encode(image, origin.Mark("swapping", False, "v", "d"))), image)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("not base64!", "not base64 text"),
        (base64.b64encode(b"hello").decode(), "not a readable PNG or JPEG"),
        (text(face(0))[:200], "not"),
        (face(0)[:20], "32x20 is not square"),
        (face(0)[..., 0], "expected base64 text"),
        (face(0).astype(np.float32), "expected base64 text"),
        (face(0).astype(int) * 2, "between 0 and 255"),
        ([[1, 2], [3]], "rows of unequal length"),
        (face(0, 4), "the side is 4 pixels"),
        (None, "expected base64 text"),
        (text(np.zeros((5000, 5000, 3), np.uint8)), "larger than 4096"),
    ],
)
def test_decode_says_what_is_wrong(value, sentence):
    with pytest.raises(ValueError, match=f"row 0, source: .*{sentence}"):
        serving.decode(value, "row 0, source")


def test_a_served_picture_carries_the_mark_of_origin(model, tmp_path):
    rows = pd.DataFrame({"task": ["swapping"], "source": [text(face(0))], "target": [text(face(1))]})
    (tmp_path / "served.png").write_bytes(base64.b64decode(model.predict(None, rows)["image"][0]))
    verdict = origin.verify(tmp_path / "served.png")
    assert verdict.state == "valid" and verdict.mark["digitalSourceType"] == origin.PURE
    assert verdict.mark["digest"] == model.marks["swapping"].digest


def test_rows_come_back_in_order_each_by_its_own_task(model):
    tasks = ["swapping", "reenactment", "swapping", "swapping", "reenactment"]
    faces = [face(seed) for seed in range(10)]
    rows = pd.DataFrame({"task": tasks, "source": faces[:5], "target": faces[5:]}, index=[7, 3, 9, 1, 2])
    answer = model.predict(None, rows)
    assert list(answer.index) == [7, 3, 9, 1, 2]
    for row, task in enumerate(tasks):
        net = model.models[task]
        source, target = (to_tensor(faces[k])[None] for k in (row, row + 5))
        with torch.inference_mode():
            expected = to_uint8(
                net(source, target, task="reenactment")
                if task == "reenactment"
                else net(source, target, task="swapping")
            )[0]
        got = answer["image"].iloc[row].astype(int)
        assert np.abs(got - expected).max() <= 1, row  # batches of another size round differently
    assert np.abs(answer["image"].iloc[0].astype(int) - answer["image"].iloc[2]).mean() > 1  # and they do differ


def test_text_in_text_out_and_other_sizes_are_resized(model):
    big = face(1, 64)
    answer = model.predict(
        None, pd.DataFrame({"task": ["swapping"] * 2, "source": [text(big), big], "target": [big] * 2})
    )
    as_text, as_array = answer["image"]
    assert as_array.shape == (32, 32, 3)
    assert np.array_equal(serving.decode(as_text), as_array)


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"task": "colour", "source": "", "target": ""}, "row 0: task is 'colour'; it must be one of"),
        ({"task": "swapping", "source": "?", "target": "?"}, "row 0, source: not base64 text"),
        ({"task": "swapping", "source": "?"}, "missing column target"),
    ],
)
def test_a_bad_request_is_a_400_with_a_sentence(model, row, sentence):
    import mlflow

    with pytest.raises(mlflow.MlflowException, match=sentence) as error:
        model.predict(None, pd.DataFrame([row]))
    assert error.value.get_http_status_code() == 400
