"""Layouts of portrait data sets: folders, zips, tables, who is a person in them, and their faults."""

import zipfile

import cv2
import pandas as pd
import pytest
from small_portraits import celeba_hq, content, draw, parquet, picture, runner, table

from pipeline import pairs as stage
from pipeline.portraits.layouts import open_source
from uniface.data import PairDataset


@pytest.fixture
def run(tmp_path):
    return runner(tmp_path)


def test_zip_parquet_and_nested_folder_give_the_same_pairs(run, tmp_path):
    raw = celeba_hq(tmp_path / "raw")
    run(out="folder", split="partition")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
        for path in raw.rglob("*.*"):
            file.write(path, f"CelebAMask-HQ/{path.relative_to(raw)}")
    run(source="zip", path=tmp_path / "x.zip", out="zip", split="partition")
    (tmp_path / "deep").mkdir()
    (raw / "CelebA-HQ-img").rename(tmp_path / "deep" / "CelebA-HQ-img")
    (tmp_path / "nested").mkdir()
    (tmp_path / "deep").rename(tmp_path / "nested" / "CelebAMask-HQ")
    for text in raw.glob("*.txt"):
        text.rename(tmp_path / "nested" / text.name)
    run(path=tmp_path / "nested", out="deep", split="partition")
    folder = content(tmp_path / "folder")
    for name in ("zip", "deep"):
        other = content(tmp_path / name)
        assert all(other[file] == folder[file] for file in folder if file != "index.parquet")  # it has the files' names
    rows = [
        {"image": {"bytes": path.read_bytes(), "path": None}, "identity": int(path.stem) % 5, "image_id": path.stem}
        for path in (tmp_path / "nested").rglob("*.png")
    ]
    pd.DataFrame(rows).sort_values("image_id", key=lambda s: s.astype(int)).to_parquet(
        tmp_path / "x.parquet", row_group_size=3
    )
    report = run(source="parquet", path=tmp_path / "x.parquet", out="parquet")
    assert report["images"]["kept"] == 20 and report["identities"]["train"] == 5
    assert PairDataset(tmp_path / "parquet", "train").image("7")[0, 0, 0] == 70


def test_folders_csv_and_bare_images(run, tmp_path):
    for n in range(16):
        folder = tmp_path / "people" / f"p{n // 4}"
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{n % 4}.png"), picture(n))
    report = run(path=tmp_path / "people", out="persons", split="identity", test_images=5)
    assert report["layout"] == "one folder per identity" and report["split"]["test"] == 8
    assert report["identities"] == {"train": 2, "test": 2, "in_both_splits": 0, "images_without": 0}
    (tmp_path / "people" / "identities.csv").write_text(
        "image,identity\n" + "".join(f"p{n // 4}/{n % 4}.png,x{n % 2}\n" for n in range(12))  # four are not named
    )
    report = run(path=tmp_path / "people", out="csv")
    assert report["layout"] == "identities.csv" and report["identities"]["images_without"] == 4
    assert report["identities"]["train"] == 2
    bare = tmp_path / "bare"
    bare.mkdir()
    for n in range(12):
        cv2.imwrite(str(bare / f"{n}.png"), picture(n))
    report = run(path=bare, out="alone")
    assert report["layout"] == "images alone" and report["identities"]["images_without"] == 12
    assert report["identities"]["train"] == 8 and "each image is its own" in report["identities"]["note"]
    _, items, _ = open_source("folder", bare)
    assert [item.image_id for item in items] == [str(n) for n in range(12)]  # 10 behind 9


def test_what_systems_leave_in_folders_and_zips_is_no_picture_and_no_person(tmp_path):
    junk = ("@eaDir", "$RECYCLE.BIN", "__MACOSX", ".AppleDouble", "#recycle", "System Volume Information", ".Trash-0")
    for n in range(4):
        draw(tmp_path / "raw" / f"p{n // 2}" / f"{n}.png", n)
    for name in junk:
        draw(tmp_path / "raw" / name / "0.png")
        draw(tmp_path / "raw" / "p0" / name / "0.png")
    draw(tmp_path / "raw" / "p0" / "._0.png")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
        for path in (tmp_path / "raw").rglob("*.png"):
            file.write(path, path.relative_to(tmp_path / "raw"))
    expected = [(f"p{n // 2}/{n}.png", f"p{n // 2}") for n in range(4)]
    for kind, path in (("folder", tmp_path / "raw"), ("zip", tmp_path / "x.zip")):
        _, items, layout = open_source(kind, path)
        assert [(item.name, item.identity) for item in items] == expected
        assert layout == ("one folder per identity", "all 1 folders, as p0")


def test_a_zip_with_backslashes_has_folders(run, tmp_path):
    raw = celeba_hq(tmp_path / "raw")
    run(out="folder")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
        for path in raw.rglob("*.*"):
            file.write(path, "CelebAMask-HQ\\" + str(path.relative_to(raw)).replace("/", "\\"))
    assert "\\" in zipfile.ZipFile(tmp_path / "x.zip").namelist()[0]
    report = run(source="zip", path=tmp_path / "x.zip", out="zip")
    assert report["layout"] == "CelebAMask-HQ" and report["identities_from"] == "identity_CelebA.txt"
    assert table(tmp_path / "zip/train.parquet").equals(table(tmp_path / "folder/train.parquet"))


def test_params_choose_which_of_two_folders_names_the_person(run, tmp_path):
    for n in range(16):
        draw(tmp_path / "raw" / f"actor{n // 8}" / f"{2018 + n // 4 % 2}" / f"{n}.png", n)
    report = run(test_images=6)
    assert report["identities_from"] == (
        "all 2 folders, as actor0/2018; pairs.level: 1 takes the outermost alone, as actor0"
    )
    assert set(table(tmp_path / "out/index.parquet").identity) == {
        f"actor{n}/{year}" for n in range(2) for year in (2018, 2019)
    }
    _, items, layout = open_source("folder", tmp_path / "raw", level=1)
    assert {item.identity for item in items} == {"actor0", "actor1"} and layout.identity == "folder 1 of 2, as actor0"
    assert {item.identity for item in open_source("folder", tmp_path / "raw", level=2)[1]} == {"2018", "2019"}
    with pytest.raises(ValueError, match=r"pairs.level is 3, but the images of .* lie in 2 folders"):
        open_source("folder", tmp_path / "raw", level=3)


def test_ffhqs_folders_of_a_thousand_are_no_persons_unless_told_so(tmp_path):
    for n in (0, 1, 999, 1000, 1001, 2345):
        draw(tmp_path / "raw" / "images1024x1024" / f"{n // 1000 * 1000:05d}" / f"{n:05d}.png")
    _, items, layout = open_source("folder", tmp_path / "raw")
    assert {item.identity for item in items} == {None} and "no persons (pairs.level: 1" in layout.name
    assert {item.identity for item in open_source("folder", tmp_path / "raw", level=1)[1]} == {
        "00000",
        "01000",
        "02000",
    }


def test_celeba_hqs_label_is_no_person_and_several_files_are_one_set(run, tmp_path):
    for n in range(3):
        parquet(tmp_path / f"raw/data/train-{n:05d}-of-00003.parquet", {"label": [0, 1, 0, 1, 1]}, 5 * n)
    parquet(tmp_path / "raw/data/validation-00000.parquet", {"label": [0, 1]}, 15)
    report = run(source="parquet", pattern="train-*.parquet")
    assert report["images"]["kept"] == 15 and report["identities"]["images_without"] == 15
    assert report["identities_from"] is None and report["identities"]["train"] == 11
    assert PairDataset(tmp_path / "out", "train").image("data/train-00002-of-00003/0")[0, 0, 0] == 100
    assert run(source="parquet")["images"]["kept"] == 17
    with pytest.raises(FileNotFoundError, match=r"holds no x\*.parquet \(pairs.pattern\)"):
        run(source="parquet", pattern="x*.parquet")


def test_a_column_of_persons_is_named_by_its_name_or_by_params(run, tmp_path, monkeypatch):
    path = tmp_path / "x.parquet"
    parquet(path, {"who": [f"p{n % 4}" for n in range(16)], "person_id": [None, *range(15)]})
    report = run(source="parquet", path=path)
    assert report["identities_from"] == "the column person_id" and report["identities"]["images_without"] == 1
    found = set(table(tmp_path / "out/index.parquet").identity)
    assert found == {"#0", *(str(n) for n in range(15))}  # pandas makes 0.0 and nan of them
    report = run(source="parquet", path=path, identity_column="who")
    assert report["identities_from"] == "the column who" and report["identities"]["train"] == 4
    with pytest.raises(ValueError, match=r"pairs\.identity_column is 'name'"):
        run(source="parquet", path=path, identity_column="name")
    parquet(path, {"person": [f"p{n % 4}" for n in range(16)]})
    monkeypatch.setattr(stage, "PER_PERSON", 4)
    with pytest.raises(ValueError, match="16 images of 4 persons by the column person, 'p0' first: classes"):
        run(source="parquet", path=path)
    assert run(source="parquet", path=path, identity_column="person")["identities"]["train"] == 4  # it was named


def test_layout_errors_say_what_is_expected(run, tmp_path):
    with pytest.raises(FileNotFoundError, match="not a folder"):
        run()
    (tmp_path / "raw").mkdir()
    with pytest.raises(FileNotFoundError, match="is empty: put the images there"):
        run()
    (tmp_path / "raw" / "notes.txt").write_text("x")
    with pytest.raises(ValueError, match=r"holds no images but 1 files \(notes.txt\); expected one of"):
        run()


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("CelebA-HQ-to-CelebA-mapping.txt", "000001.jpg 2880\n", "expected the columns idx orig_idx orig_file"),
        ("CelebA-HQ-to-CelebA-mapping.txt", "idx orig_idx orig_file\nx y\n", "line 2"),
        ("CelebA-HQ-to-CelebA-mapping.txt", "idx orig_idx orig_file\n0 1 000001.jpg\n", "belong together"),
        ("CelebA-HQ-to-CelebA-mapping.txt", None, "no CelebA-HQ-to-CelebA-mapping.txt"),
        ("identity_CelebA.txt", "000001.jpg\n", "identity_CelebA.txt, line 1"),
        ("list_eval_partition.txt", "000001.jpg 7\n", "expected 0, 1 or 2"),
    ],
)
def test_wrong_text_files(run, tmp_path, file, text, message):
    raw = celeba_hq(tmp_path / "raw")
    (raw / file).unlink()
    if text is not None:
        (raw / file).write_text(text)
    with pytest.raises(ValueError, match=message):
        run()


def test_zip_faults(run, tmp_path):
    path = tmp_path / "x.zip"
    with pytest.raises(FileNotFoundError, match="put the zip there"):
        run(source="zip", path=path)
    path.write_bytes(b"junk")
    with pytest.raises(ValueError, match="not a readable zip"):
        run(source="zip", path=path)
    for name in ("../x.png", "/x.png", "a/../../x.png", "c:/x.png"):
        with zipfile.ZipFile(path, "w") as file:
            file.writestr(name, b"x")
        with pytest.raises(ValueError, match="leaves its folder"):
            run(source="zip", path=path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("folder/", b"")
    with pytest.raises(ValueError, match="no files"):
        run(source="zip", path=path)


def test_parquet_faults(run, tmp_path):
    path = tmp_path / "x.parquet"
    path.write_bytes(b"junk")
    with pytest.raises(ValueError, match="not a readable parquet"):
        run(source="parquet", path=path)
    pd.DataFrame({"picture": [b"x"]}).to_parquet(path)
    with pytest.raises(ValueError, match=r"columns \['picture'\]; expected `image`"):
        run(source="parquet", path=path)
