"""The ready params files, made of one base and short files that name what differs.

`presets/base.yaml` is the sample, whole; `presets/<name>.yaml` holds only the lines that another use needs otherwise.

    python -m pipeline.presets          write params.yaml (the base) and params.<name>.yaml for every other preset
    python -m pipeline.presets check    say which of them are not what the presets make, exit status 1 if any
"""

import re
import sys
from pathlib import Path

FOLDER = "presets"
BASE = "base"
_KEY = re.compile(r"^(\s*)([\w.]+):(\s.*|)$")


def presets(root: Path = Path()) -> dict[str, str]:
    """File name -> contents of every params file that the presets make."""
    base = (root / FOLDER / f"{BASE}.yaml").read_text(encoding="utf-8")
    made = {"params.yaml": base}
    for path in sorted((root / FOLDER).glob("*.yaml")):
        if path.stem != BASE:
            made[f"params.{path.stem}.yaml"] = _replaced(base, path)
    return made


def _replaced(base: str, preset: Path) -> str:
    """The base with a preset's opening comment and its lines, each in the place of the line with the same key.

    Raises ValueError for a key that the base does not have.
    """
    text = preset.read_text(encoding="utf-8")
    lines = base.splitlines()
    places = {key: number for key, (number, _) in _keys(lines).items()}
    for key, (_, line) in _keys(text.splitlines()).items():
        if key not in places:
            raise ValueError(f"{preset} names {'.'.join(key)}, which {FOLDER}/{BASE}.yaml does not have")
        if line.split("#")[0].strip().endswith(":"):
            continue  # a section, of which the lines below it are meant
        lines[places[key]] = line
    opening = [line for line in text.splitlines() if line.startswith("#")]
    return "\n".join([*opening, *lines[next(iter(places.values())) :]]) + "\n"


def _keys(lines: list[str]) -> dict[tuple[str, ...], tuple[int, str]]:
    """Every key, below those of its sections -> number and text of its line."""
    found: dict[tuple[str, ...], tuple[int, str]] = {}
    above: list[tuple[int, str]] = []
    for number, line in enumerate(lines):
        if match := _KEY.match(line):
            above = [one for one in above if one[0] < len(match[1])] + [(len(match[1]), match[2])]
            found[tuple(name for _, name in above)] = number, line
    return found


def main(arguments: list[str]) -> int:
    """Write the files, or check them."""
    if arguments not in ([], ["check"]):
        print("usage: python -m pipeline.presets [check]", file=sys.stderr)
        return 2
    drifted = 0
    try:
        made = presets()
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for name, text in made.items():
        path = Path(name)
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        if arguments:
            print(f"{name} is not what {FOLDER}/ makes: python -m pipeline.presets writes it", file=sys.stderr)
            drifted = 1
        else:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {name}")
    return drifted


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
