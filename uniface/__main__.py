"""The command line of the models: `python -m uniface summary | import | reenact | swap`."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from uniface.config import ModelConfig

if TYPE_CHECKING:
    import torch


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

    for name, task in (("reenact", "reenactment"), ("swap", "swapping")):
        command = commands.add_parser(name, help=f"{name} one picture")
        command.add_argument("source", type=Path, help="picture that gives the identity")
        command.add_argument("target", type=Path, help="picture that gives the attributes")
        command.add_argument("-o", "--out", type=Path, required=True, help="picture to write")
        command.add_argument("--model", type=Path, default=Path(f"models/{task}.safetensors"))
        command.add_argument("--device", default="cpu")
        command.set_defaults(run=_generate, task=task)

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


def _generate(options: argparse.Namespace) -> None:
    import torch

    from uniface.images import read_image, resize, to_tensor, to_uint8, write_image
    from uniface.model import UniFace

    device = _device(options.device)
    model = UniFace.load(options.model, device=device)
    size = model.config.image_size
    pair = []
    for path in (options.source, options.target):
        image = read_image(path)
        height, width = image.shape[:2]
        if height != width:  # squashing a face would change its identity
            raise ValueError(f"{path} is {width} x {height}: give square face crops, as the stage crop cuts them")
        pair.append(to_tensor(resize(image, (size, size)))[None].to(device))
    with torch.inference_mode():
        image = model(*pair, task=options.task)
    write_image(options.out, to_uint8(image[0]))
    print(f"wrote {options.out}")


def _device(name: str) -> "torch.device":
    """The device of that name. Raises ValueError if torch knows none, or this machine has none."""
    import torch

    try:
        torch.zeros(1, device=name).cpu()  # `meta` is a device too, but nothing comes back from it
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:  # torch raises each of them
        raise ValueError(f"--device {name} cannot be used on this machine: leave it out for the CPU") from error
    return torch.device(name)


if __name__ == "__main__":
    raise SystemExit(main())
