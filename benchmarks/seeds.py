"""The sample's results with several seeds, as the table of README.md.

    python -m benchmarks.seeds 0 1 7

Each seed is other persons, other portraits, other random weights: a clone of this checkout (its last commit) in
`work/seeds/<seed>`, where every stage up to `evaluate` runs. A second call brings the clone up to date and goes on.
"""

import argparse
import json
import re
import subprocess
from pathlib import Path

from pipeline.common.repro import reproduce, stages


def run(seed: int, root: Path) -> dict:
    """The metrics of one seed."""
    place = root / "work" / "seeds" / str(seed)
    if not (place / "dvc.yaml").is_file():
        subprocess.run(["git", "clone", "--quiet", str(root), str(place)], check=True)
    for command in (["fetch", "--quiet", str(root)], ["reset", "--quiet", "--hard", "FETCH_HEAD"]):
        subprocess.run(["git", *command], cwd=place, check=True)
    params = place / "params.yaml"
    params.write_text(re.sub(r"^seed: \d+", f"seed: {seed}", params.read_text(), flags=re.MULTILINE))
    for stage in stages(place):
        if stage != "register":
            reproduce(stage, place)
    return json.loads((place / "reports" / "metrics.json").read_text())


def table(results: dict[int, dict]) -> str:
    """A row a seed of what each stage is asked for, as Markdown."""
    first = ["| stage 1, seed | PSNR | SSIM | mean frame | copy source | other driver | other source |"]
    second = ["| stage 2, seed | like source | like target | right beats wrong | by, dB | PSNR(self) |"]
    for lines in (first, second):
        lines.append("|---|" + "---:|" * (lines[0].count("|") - 2))
    for seed, found in results.items():
        made, basis, control = found["reenactment"], found["baselines"]["reenactment"], found["controls"]["reenactment"]
        cells = [f"{made['psnr']:.2f}", f"{made['ssim']:.3f}"]
        cells += [f"{basis[name]['psnr']:.2f}" for name in ("mean_frame", "copy_source")]
        cells += [f"{-control[name]['psnr_drop']:+.2f}" for name in ("shuffled_driver", "shuffled_source")]
        first.append(f"| {seed} | " + " | ".join(cells) + " |")
        made, control = found["swapping"], found["controls"]["swapping"]
        wrong = control["wrong_source"]
        cells = [f"{made['csim']:.2f}", f"{made['csim_target']:.2f}", f"{wrong['right_beats_wrong']:.1%}"]
        cells += [f"{wrong['psnr_face_gain']:+.2f}", f"{control['self']['psnr']:.1f}"]
        second.append(f"| {seed} | " + " | ".join(cells) + " |")
    return "\n".join([*first, "", *second])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seeds", type=int, nargs="+")
    seeds = parser.parse_args().seeds
    print(table({seed: run(seed, Path().resolve()) for seed in seeds}))


if __name__ == "__main__":
    main()
