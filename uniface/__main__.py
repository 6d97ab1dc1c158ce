"""The command line of the models: `python -m uniface summary | import | reenact | swap | demo | export | verify`."""

import argparse
import sys
from pathlib import Path

from uniface.config import ModelConfig
from uniface.use import commands as uses


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0 if it worked, 2 after printing why not."""
    parser = argparse.ArgumentParser(prog="python -m uniface", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    command = commands.add_parser("summary", help="parameters and GFLOPs per part, as a table")
    command.add_argument("--model", type=Path, help="of this model file; default: of the paper's configuration")
    command.add_argument("--released", choices=["reenactment", "swapping"], help="of this released network")
    command.set_defaults(run=_summary)

    command = commands.add_parser("import", help="turn a released checkpoint (.pt) into a model file")
    command.add_argument("checkpoint", type=Path)
    command.add_argument("-o", "--out", type=Path, required=True, help="the .safetensors file to write")
    command.set_defaults(run=_import)

    uses.add(commands)

    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _summary(options: argparse.Namespace) -> None:
    from uniface.model import read_metadata
    from uniface.released import reenactment_config, swapping_config
    from uniface.summary import table

    if options.model:
        config, _ = read_metadata(options.model)
    elif options.released:
        config = reenactment_config() if options.released == "reenactment" else swapping_config()
    else:
        config = ModelConfig()
    print(table(config))


def _import(options: argparse.Namespace) -> None:
    from uniface.released import import_checkpoint

    model, report = import_checkpoint(options.checkpoint)
    print(f"{options.checkpoint}: {report}")
    model.save(options.out, extra={"imported_from": options.checkpoint.name, "task": report.task})
    print(f"wrote {options.out}")


if __name__ == "__main__":
    raise SystemExit(main())
