"""Stage `weights`: the frozen networks into one folder, each with its name, source, licence and checksum.

Source `sample`: the small networks that ship with this project, stand-ins in every role. Source `packages`: networks
trained on photographs that ordinary packages hold, converted here (`make faces` installs them). Source `internet`: the
paper's networks or their closest public relatives, downloaded once, resumed after a break, and checked before use.
Any role can be filled otherwise: from another source, or by a file of yours. What is not the sample's or the paper's
is tried on a photograph first.
"""

import shutil
import zipfile
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from pipeline.common.files import atomic_write, publish, read_json, sha256, work_folder, write_json
from pipeline.common.nets import MANIFEST
from pipeline.common.places import Places, main
from pipeline.nets.catalogue import INTERNET, PACKAGES, SAMPLE, Weight
from pipeline.nets.fetch import BLOCK, check, download
from pipeline.sections import Params, RoleParams

SAMPLE_NETS = Path(__file__).parent / "sample" / "nets"


def weights(
    params: Params,
    places: Places,
    internet: tuple[Weight, ...] = INTERNET,
    packages: tuple[Weight, ...] = PACKAGES,
    shipped: Path = SAMPLE_NETS,
) -> dict[str, dict]:
    """Fill `data/weights` with the networks and `weights.json`, which says of each role what plays it.

    Its entries hold file, name, sha256, licence, url, source, stand_in; `original_sha256` of what was converted, the
    `centre` (D,) of a recogniser, the `standard_points` (5, 3) of D3DFR's face, the `metric` that the net's distances
    are called by, the `report` of a stand-in.
    Returns what weights.json holds. Raises FileNotFoundError for a missing file or package, ValueError for one that is
    not what its checksum or its role says, ConnectionError for one that never came whole; the folder is only replaced
    once everything is there.
    """
    sources = {"sample": tuple(_of_sample(shipped)), "packages": packages, "internet": internet}
    wanted = {weight.role: weight for weight in sources[params.weights.source]}
    for role, choice in params.weights.roles.items():
        wanted[role] = _chosen(role, choice, sources)
    chosen = list(wanted.values())
    centres = {weight.role: weight.read_centre() for weight in chosen if weight.centre}
    standard = {weight.role: _standard_points(weight.landmarks) for weight in chosen if weight.landmarks}
    work = work_folder("weights", [asdict(weight) for weight in chosen], work=places.work)
    manifest = {weight.role: _obtain(weight, work, places.work / "weights") for weight in chosen}
    report = _report(shipped)
    for role, entry in manifest.items():
        if entry["source"] == "sample":
            entry["report"] = report.get(role, {})
        if role in centres:
            entry["centre"] = centres[role]
        if role in standard:
            entry["standard_points"] = standard[role]
    write_json(work / MANIFEST, manifest)
    publish(work, places.nets)
    for role, entry in manifest.items():
        print(f"weights: {role:10} {entry['name']}{' (stand-in)' if entry['stand_in'] else ''}")
    return manifest


def _standard_points(path: Path) -> list[list[float]]:
    from uniface.deep3d import standard_points

    return standard_points(path).tolist()


def _report(shipped: Path) -> dict[str, dict]:
    path = shipped / "report.json"
    return read_json(path)["nets"] if path.is_file() else {}


def _of_sample(shipped: Path):
    """The nets that ship with the package, with the checksums of their report."""
    report = _report(shipped)
    for role, (file, name) in SAMPLE.items():
        path = shipped / Path(file).name
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: it ships with this project, restore it (git checkout)")
        found = sha256(path)
        if report.get(role, {}).get("sha256", found) != found:
            raise ValueError(
                f"{path} has sha256 {found}, its report says {report[role]['sha256']}: restore both (git checkout)"
            )
        yield Weight(role, file, name, "MIT (this project)", str(path), found, source="sample")


def _chosen(role: str, choice: RoleParams, sources: dict[str, tuple[Weight, ...]]) -> Weight:
    """What params.yaml wants for one role. Raises ValueError if the source that it names has nothing for it."""
    if choice.file:
        return Weight.of_yours(role, choice)
    for weight in sources[choice.source]:
        if weight.role == role:
            return weight
    having = [name for name, offers in sources.items() if any(weight.role == role for weight in offers)]
    raise ValueError(
        f"weights.roles.{role}: the source {choice.source} has none; {' and '.join(having) or 'no source'} would,"
        " and so would a `file` of yours"
    )


def _obtain(weight: Weight, work: Path, downloads: Path) -> dict:
    """Put one network into `work`, unless it is there already with the right checksum; its manifest entry."""
    target = work / weight.file
    if weight.converted or not (target.is_file() and sha256(target) == weight.sha256):
        if weight.source != "sample":
            print(f"weights: {weight.role} <- {weight.url}", flush=True)
        source = _source(weight, downloads)
        check(source, weight.sha256, weight.url)
        with atomic_write(target) as part:
            _convert(weight, source, part)
            if weight.tested:
                from pipeline.nets.self_test import try_out

                try_out(weight, part)
    entry = {key: getattr(weight, key) for key in ("file", "name", "licence", "url", "source")}
    if weight.source == "sample":
        entry["url"] = f"package:pipeline/sample/nets/{Path(weight.url).name}"
    entry |= {"sha256": sha256(target), "stand_in": weight.source == "sample"}
    if weight.converted:
        entry["original_sha256"] = weight.sha256
    if weight.metric:
        entry["metric"] = weight.metric
    return entry


def _source(weight: Weight, downloads: Path) -> Path:
    """The file that a network is made of, fetched if need be."""
    if weight.url.startswith("package:"):
        return _packaged(weight)
    if urlsplit(weight.url).scheme in ("", "file") or Path(weight.url).is_file():
        path = Path(weight.url.removeprefix("file://"))
        if not path.is_file():
            raise FileNotFoundError(f"no file {path} for the {weight.role} (weights.roles.{weight.role}.file)")
        return path
    if weight.member:
        return _extract(download(weight.url, weight.archive_sha256, downloads), weight, downloads)
    return download(weight.url, weight.sha256, downloads)


def _convert(weight: Weight, source: Path, path: Path) -> None:
    if weight.converter:
        from pipeline.nets import centerface, dlib_resnet, efficientnet

        modules = {"centerface": centerface, "dlib_resnet": dlib_resnet, "efficientnet": efficientnet}
        modules[weight.converter].convert(source, path)
    elif weight.layout:
        from pipeline.nets.layout import adapt

        adapt(source, path, weight.layout, weight.role)
    else:
        shutil.copyfile(source, path)


def _packaged(weight: Weight) -> Path:
    from importlib.util import find_spec

    package, _, inside = weight.url.removeprefix("package:").partition("/")
    spec = find_spec(package)  # does not import it
    path = Path(spec.submodule_search_locations[0]) / inside if spec else Path(inside)
    if not path.is_file():
        how = "make faces" if weight.source == "packages" else f"pip install {package}"
        raise FileNotFoundError(f"the {weight.role} needs the package {package} with its file {inside}: {how}")
    return path


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


if __name__ == "__main__":
    main(weights)
