"""The page says what the files say, holds all that it shows, and does without what has not been made."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.common.places import Places
from pipeline.common.sheets import write_sheet
from pipeline.params import load
from pipeline.scoring import paper, tables
from pipeline.scoring.page import write_page
from pipeline.scoring.tables import Table

ROOT = Path(__file__).resolve().parents[3]
CHROMIUM = shutil.which("chromium")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-component-update",
    "--disable-background-networking", "--disable-sync", "--enable-logging=stderr", "--log-level=0",
)  # fmt: skip


@pytest.fixture(scope="module")
def params():
    return load(ROOT / "params.yaml")


@pytest.fixture
def places(tmp_path, params):
    """Reports of one exam: made-up values of 30 pairs, a name that wants escaping, two curves, one sheet."""
    places, rng = Places(tmp_path), np.random.default_rng(0)
    names = tuple((f"s{k}", f"t{k}") for k in range(30))
    rows = {
        name: {"psnr": rng.normal(level, 1, 30), "csim": rng.normal(0.5, 0.1, 30)}
        for name, level in (("model", 22.0), ("copy_source", 19.0), ("champion", 21.0))
    }
    lines = tables.intervals("reenactment", Table(names, names, rows), {})
    network = {"network": "a <b>net</b>", "stand_in": True, "source": "sample"}
    report = {
        "reenactment": {"psnr": 22.0, "csim": 0.5},
        "exams": {"reenactment": {"task": "reenactment", "model": "reenactment", "pairs": "two_persons", "count": 0}},
        "intervals": {"reenactment": {"csim": [0.45, 0.55]}},
        "pairs": {"reenactment": 30},
        "models": {"reenactment": "stage 1"},
        "networks": {"csim": network},
        "definitions": {"csim": "cosine"},
        "frechet": {"reenactment": {"pairs": 30, "features": 96, "at_infinity": None, "bias": None}},
    }
    places.reports.mkdir()
    (places.reports / "metrics.json").write_text(json.dumps(report))
    tables.write_intervals(places.reports / "intervals.csv", lines)
    paper.write_comparison(places.reports / "vs_paper.csv", report, params)
    (places.reports / "reenactment.csv").write_text("step,reconstruction,r1\n10,0.5,\n20,0.25,\n")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copy(ROOT / "params.paper.yaml", tmp_path)
    columns = [rng.integers(0, 256, (2, 16, 16, 3), dtype=np.uint8) for _ in range(3)]
    write_sheet(places.reports / "samples/reenactment.png", ["source", "target", "output"], columns)
    return places


def test_the_page_holds_everything_and_links_to_nothing(places, params):
    text = write_page(params, places).read_text()
    links = re.findall(r"""(?:href|src|url|action|data)\s*[=(]\s*["']?([^"')>\s]+)""", text)
    assert links and all(link.startswith(("#", "data:")) for link in links), links
    assert "://" not in text and "@import" not in text and "<script" not in text
    assert text.count("data:image/webp;base64,") == 1
    targets = {link[1:] for link in re.findall(r'<a href="(#[a-z]+)"', text)}
    assert targets <= set(re.findall(r'<section id="([a-z]+)"', text)) and "pictures" in targets
    assert len(re.findall(r'\bid="(p\w+)"', text)) == len(set(re.findall(r'\bid="(p\w+)"', text)))  # clip paths


def test_the_page_says_what_was_measured(places, params):
    text = write_page(params, places).read_text()
    assert "a &lt;b&gt;net&lt;/b&gt;" in text and "<b>net" not in text
    row = re.search(r"<th>copy source</th>(.*?)</tr>", text, re.DOTALL).group(1)
    assert 'class="better"' in row  # 3 dB, on the same pairs
    assert "PIRenderer" in text and "54.34" in text and "195.67" in text
    assert "30 pairs are too few to tell" in text
    assert "iterations" in text and "500000" in text  # a param that differs from the paper


def test_the_same_reports_give_the_same_page(places, params):
    assert write_page(params, places).read_bytes() == write_page(params, places).read_bytes()


def test_what_has_not_been_made_is_left_out(places, params):
    for name in ("vs_paper.csv", "intervals.csv", "reenactment.csv", "samples/reenactment.png"):
        (places.reports / name).unlink()
    (places.root / "params.paper.yaml").unlink()
    text = write_page(params, places).read_text()
    assert 'id="numbers"' in text and not {'id="paper"', 'id="curves"', 'id="pictures"'} & set(
        re.findall(r'id="\w+"', text)
    )
    (places.reports / "ablations.csv").write_text(
        "variant,exam,metric,value,low,high,pairs,difference,difference_low,difference_high\n"
        "full,swapping,csim,0.6,0.5,0.7,30,,,\nwithout_idt,swapping,csim,0.1,,,30,-0.5,-0.6,-0.4\n"
        "full,reenactment,ape,3.1,3.0,3.2,30,,,\nwithout_attrt,reenactment,ape,3.2,3.1,3.3,30,0.1,-0.1,0.3\n"
    )
    text = write_page(params, places).read_text()
    assert "w/o IdT</th>" in text and "0.500 to 0.700" in text
    assert '<span class="worse">0.1000</span>' in text  # than the full model, beyond the interval
    assert "w/o IdT the identity of swapping is worse; so here (CSIM -0.5; 95 % interval -0.6 to -0.4)" in text
    assert "w/o AttrT the pose of reenactment is worse; here the interval holds 0 (APE +0.1; 95 %" in text
    (places.reports / "metrics.json").unlink()
    with pytest.raises(FileNotFoundError, match="dvc repro evaluate"):
        write_page(params, places)


def test_every_published_number_has_a_row(places, params):
    report = json.loads((places.reports / "metrics.json").read_text())
    rows = paper.comparison(report, params)
    assert len(rows) == 30 + 25 + 25 and {row["table"] for row in rows} == {1, 2, 3}
    first = {(row["table"], row["metric"]): row for row in rows}
    assert first[2, "csim"]["ours"] == 0.5 and first[2, "csim"]["low"] == 0.45
    assert first[2, "csim"]["why"] == "stand-in network (a <b>net</b>); the sample's data; 64 px, not 256"
    assert first[2, "fid"]["why"].startswith("not measured") and first[2, "authentic"]["ours"] is None
    assert first[3, "ape"]["why"].startswith("not examined") and first[3, "ape"]["exam"] is None
    report["networks"]["csim"] = {"network": "glintr100", "stand_in": False, "source": "internet"}
    report["exams"] = {"vox": report["exams"]["reenactment"] | {"pairs": "videos_cross"}}
    for section in ("intervals", "pairs"):
        report[section] = {"vox": report[section]["reenactment"]}
    report["vox"] = report["reenactment"]
    real = replace(params, image_size=256, download=replace(params.download, source="youtube"))
    (row,) = [
        r for r in paper.comparison(report, real) if (r["table"], r["metric"], r["method"]) == (2, "csim", "UniFace")
    ]
    assert (row["comparable"], row["why"], row["paper"]) == ("yes", "", 0.5703) and row["data"].startswith("VoxCeleb2")
    report["networks"]["aee"], report["vox"]["aee"] = report["networks"]["csim"] | {"network": "D3DFR"}, 0.4
    (row,) = [
        r for r in paper.comparison(report, real) if (r["table"], r["metric"], r["method"]) == (2, "aee", "UniFace")
    ]
    assert row["comparable"] == "no" and row["why"].startswith("ours is the mean absolute difference of the coeff")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="Debian's package chromium is not installed: apt-get install chromium")
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_opens_in_a_browser(places, params, tmp_path, width):
    """No error on the console, and nothing wider than the window but what scrolls by itself."""
    page = write_page(params, places)
    probe = "<script>document.title = document.documentElement.scrollWidth</script></body>"
    page.write_text(page.read_text().replace("</body>", probe))
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path}/profile", f"--window-size={width},900", "--dump-dom"]
    done = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=300, check=True)
    assert "CONSOLE" not in done.stderr
    shown = int(re.search(r"<title>(\d+)</title>", done.stdout).group(1))
    assert shown <= max(width, 500)  # headless windows are not narrower than 500
