"""VoxCeleb2's texts in folders and zips, FOMM's metadata, splits, and archives that must be refused."""

import zipfile

import numpy as np
import pytest

from pipeline.videos import annotations
from pipeline.videos.annotations import Annotations, Crop, Listed, parse_utterance

PUBLISHED = """Identity  : \tid00017
Reference : \t_mjZ87sK6cA
Offset    : \t2
FV Conf   : \t16.140\t(1)
ASD Conf  : \t5.142

FRAME \tX \tY \tW \tH 
008809 \t0.123 \t0.136 \t0.422 \t0.749 
008810 \t0.125 \t0.136 \t0.420 \t0.749 
008812 \t0.127 \t0.136 \t0.420 \t0.749 
"""
SHIPPED = """video_id,start,end,bbox,fps,width,height,partition,person_id
WMh3ye5tBsE,3657,3994,624-48-1018-553,25,1280,720,train,id10005
-Mh3ye5tBsE,3467,3576,610-41-989-550,25,1280,720,test,id10270
WMh3ye5tBsE,1426,1546,522-49-931-580,25,1280,720,train,id10005
"""


def zipped(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name in members:
            archive.writestr(name, PUBLISHED)
    return path


def test_a_published_text_becomes_a_track():
    track = parse_utterance(PUBLISHED, "00012")
    assert (track.utterance, track.first, track.end) == ("00012", 8809, 8813)
    assert track.boxes[0] == pytest.approx([0.123, 0.136, 0.545, 0.885])
    assert np.isnan(track.boxes[2]).all() and not np.isnan(track.boxes[[0, 1, 3]]).any()


def test_what_is_written_is_read_again():
    text = annotations.format_utterance("id00017", "-abc", range(5, 8), [(0.1, 0.2, 0.3, 0.4)] * 3)
    track = parse_utterance(text, "1")
    assert track.first == 5 and track.boxes == pytest.approx(np.array([[0.1, 0.2, 0.4, 0.6]] * 3))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 7"),
        ("\n" * 6 + "X Y W H\n", "line 7"),
        ("\n" * 6 + "FRAME X Y W H\n", "no frames"),
        ("\n" * 6 + "FRAME X Y W H\n1 0.1 0.1 0.2\n", "line 8"),
        ("\n" * 6 + "FRAME X Y W H\n-5 0 0 1 1\n", "rise"),
        ("\n" * 6 + "FRAME X Y W H\n1 0,1 0,1 0,2 0,3\n", "line 8 has decimal commas"),
    ],
)
def test_bad_texts_are_told(text, message):
    with pytest.raises(ValueError, match=message):
        parse_utterance(text, "00001")


GOOD = [(k, 0.1, 0.2, 0.3, 0.4) for k in range(100, 110)]


@pytest.mark.parametrize(
    ("at", "line"),
    [
        (3, "103 0.1 0.2 0.3"),
        (3, "103 0.1 0.2 0.3 0.4 0.5"),
        (3, "one 0.1 0.2 0.3 0.4"),
        (3, "103 0.1 nan 0.3 0.4"),
        (3, "900 0.1 0.2 0.3 0.4"),
        (0, "900 0.1 0.2 0.3 0.4"),
        (9, "99999999 0.1 0.2 0.3 0.4"),
        (5, "100 0.1 0.2 0.3 0.4"),
    ],
)
def test_a_bad_line_costs_that_line(at, line):
    lines = [" ".join(map(str, row)) for row in GOOD]
    lines[at] = line
    track = parse_utterance("\ufeff" + "\n" * 6 + "FRAME X Y W H\n" + "\n".join(lines) + "\n", "1")
    assert (track.first, track.end) == (101 if at == 0 else 100, 109 if at == 9 else 110)
    assert track.boxes == pytest.approx(np.tile([0.1, 0.2, 0.4, 0.6], (len(track.boxes), 1)))
    assert track.bad_lines == 1


def test_a_byte_order_mark_changes_nothing(tmp_path):
    (tmp_path / "txt" / "id00012" / "v").mkdir(parents=True)
    (tmp_path / "txt" / "id00012" / "v" / "00001.txt").write_text(PUBLISHED, encoding="utf-8-sig")
    assert Annotations(tmp_path).texts("id00012", "v") == {"00001": PUBLISHED}
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "vox-metadata.csv").write_text(SHIPPED, encoding="utf-8-sig")
    assert len(Annotations(tmp_path / "m").videos()) == 2
    (tmp_path / "m" / "vox2_meta.csv").write_text(
        "VoxCeleb2 ID ,VGGFace2 ID ,Gender ,Set \nid10005 ,n1 ,m ,test\nid10270\n", encoding="utf-8-sig"
    )
    assert [one.split for one in Annotations(tmp_path / "m").videos()] == ["test", "test"]


@pytest.mark.parametrize(
    "row",
    [
        "WMh3ye5tBsE,1,99",
        "WMh3ye5tBsE,1,99,1-2-3-4,25,1280,720,train,id10005,more",
        "WMh3ye5tBsE,x,99,1-2-3-4,25,1280,720,train,id10005",
        "WMh3ye5tBsE,1,99,1-2-3,25,1280,720,train,id10005",
        "WMh3ye5tBsE,1,99,1-2-3-4,25,0,720,train,id10005",
    ],
)
def test_a_bad_row_of_the_metadata_costs_that_row(tmp_path, row):
    path = tmp_path / "vox-metadata.csv"
    path.write_text(SHIPPED + row + "\n")
    found = Annotations(path)
    assert len(found.crops("id10005", "WMh3ye5tBsE")) == 2
    assert len(found.bad_rows) == 1 and "line 5" in found.bad_rows[0]
    path.write_text(SHIPPED.splitlines()[0] + "\n" + row + "\n")
    with pytest.raises(ValueError, match=r"no row.*line 2"):
        Annotations(path)


def test_decimal_commas_in_the_metadata_are_refused(tmp_path):
    path = tmp_path / "vox-metadata.csv"
    path.write_text(SHIPPED.replace("624-48-1018-553", '"624,5-48-1018-553"'))
    with pytest.raises(ValueError, match="line 2 has decimal commas"):
        Annotations(path)


def test_zip_folder_and_saved_copy_hold_the_same(tmp_path):
    names = ["txt/id00012/-bcdefghijk/00001.txt", "txt/id00017/a/00002.txt", "txt/id00017/a/00001.txt"]
    archive = Annotations(zipped(tmp_path / "vox.zip", names))
    for name in names:
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).write_text(PUBLISHED)
    tree = Annotations(tmp_path / "tree" / "txt")
    tree.save(tmp_path / "saved")
    archive.save(tmp_path / "saved2")
    assert (tmp_path / "saved" / "txt.zip").read_bytes() == (tmp_path / "saved2" / "txt.zip").read_bytes()
    for one in (archive, tree, Annotations(tmp_path / "saved")):
        assert one.videos() == [Listed("id00012", "-bcdefghijk", "train"), Listed("id00017", "a", "test")]
        assert one.texts("id00017", "a") == {"00001": PUBLISHED, "00002": PUBLISHED}
        assert one.texts("id00017", "other") == {}


def test_the_split_is_the_published_table_then_the_partition_then_the_fixed_list(tmp_path):
    assert len(annotations.TEST_SPEAKERS) == 118
    assert {"id00017", "id09017", "id07621"} <= annotations.TEST_SPEAKERS and "id00012" not in annotations.TEST_SPEAKERS
    zipped(tmp_path / "vox2_test_txt.zip", ["txt/id00100/v/00001.txt"])
    zipped(tmp_path / "vox2_dev_txt.zip", ["txt/id00017/v/00001.txt"])
    assert [v.split for v in Annotations(tmp_path).videos()] == ["train", "test"]
    (tmp_path / "vox2_meta.csv").write_text(
        "VoxCeleb2 ID ,VGGFace2 ID ,Gender ,Set \nid00017 ,n000017 ,m ,test\nid00100 ,n000100 ,f ,dev\n"
    )
    assert [v.split for v in Annotations(tmp_path).videos()] == ["test", "train"]


def test_partition_folders_give_the_split(tmp_path):
    tree = tmp_path / "txt" / "test" / "id00100" / "v"
    tree.mkdir(parents=True)
    (tree / "00001.txt").write_text(PUBLISHED)
    assert Annotations(tmp_path).videos() == [Listed("id00100", "v", "test")]


@pytest.mark.parametrize("name", ["../evil/v/1.txt", "/abs/p/v/1.txt", "a/../../p/v/1.txt", "C:\\p\\v\\1.txt"])
def test_an_archive_that_climbs_out_is_refused(tmp_path, name):
    path = zipped(tmp_path / "bad.zip", ["txt/id00012/v/00001.txt", name])
    with pytest.raises(ValueError, match=r"bad\.zip is refused.*points outside"):
        Annotations(path)


def test_links_in_archives_and_broken_archives_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        member = zipfile.ZipInfo("txt/id00012/v/00001.txt")
        member.external_attr = 0o120777 << 16
        archive.writestr(member, "/etc/passwd")
    with pytest.raises(ValueError, match="refused"):
        Annotations(tmp_path / "link.zip")
    (tmp_path / "half.zip").write_bytes(zipped(tmp_path / "a.zip", ["txt/a/b/1.txt"]).read_bytes()[:-30])
    with pytest.raises(ValueError, match="readable zip"):
        Annotations(tmp_path / "half.zip")


def test_foreign_names_never_become_paths(tmp_path):
    path = zipped(tmp_path / "z.zip", ["txt/id00012/v/00001.txt", "txt/i d/v/1.txt", "txt/id1/.x/1.txt"])
    assert Annotations(path).videos() == [Listed("id00012", "v", "train")]
    bad = SHIPPED.replace("id10270", "../id")
    (tmp_path / "vox-metadata.csv").write_text(bad)
    found = Annotations(tmp_path / "vox-metadata.csv")
    assert [one.person_id for one in found.videos()] == ["id10005"]
    assert "line 3" in found.bad_rows[0]


def test_shipped_metadata_is_read_and_written_back(tmp_path):
    path = tmp_path / "vox-metadata.csv"
    path.write_text(SHIPPED)
    shipped = Annotations(path)
    assert shipped.videos() == [Listed("id10005", "WMh3ye5tBsE", "train"), Listed("id10270", "-Mh3ye5tBsE", "test")]
    assert shipped.crops("id10005", "WMh3ye5tBsE") == [
        Crop(1426, 1546, (522, 49, 931, 580), 1280, 720),
        Crop(3657, 3994, (624, 48, 1018, 553), 1280, 720),
    ]
    shipped.save(tmp_path / "out")
    lines = (tmp_path / "out" / "vox-metadata.csv").read_text().splitlines()
    assert sorted(lines) == sorted(SHIPPED.splitlines())


def test_the_crop_scripts_own_metadata_has_the_person_in_the_video_id(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text(
        "video_id,start,end,bbox,fps,width,height,partition\nvid#id00012,0,64,1-2-301-302,25,640,360,train\n"
    )
    assert Annotations(path).crops("id00012", "vid") == [Crop(0, 64, (1, 2, 301, 302), 640, 360)]
    path.write_text("video_id,start\nvid,1\n")
    with pytest.raises(ValueError, match="bbox"):
        Annotations(path)


def test_nothing_there_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="README"):
        Annotations(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="neither"):
        Annotations(tmp_path)
