"""Look at the sample world, or render it by hand (the stages `download` and `pairs` do so themselves).

python -m pipeline.sample gallery -o out.png
python -m pipeline.sample write --raw data/raw
python -m pipeline.sample examples -o uniface/use/page/examples
python -m pipeline.sample use --model pretrained -o docs/use.png
"""

import argparse
from pathlib import Path

import uniface
from pipeline.params import load_or_exit
from pipeline.sample import showcase
from pipeline.sample.gallery import draw_gallery
from pipeline.sample.raw import write_celebahq, write_voxceleb2
from pipeline.sample.world import World

EXAMPLES = Path(uniface.__file__).parent / "use" / "page" / "examples"


def main() -> None:
    """The command line; size and seed of the world come from params.yaml."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.sample", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    gallery = commands.add_parser("gallery", help="one picture: identities x attributes, and ground truth")
    gallery.add_argument("-o", "--out", type=Path, default=Path("gallery.png"))
    gallery.add_argument("--identities", type=int, default=8)
    write = commands.add_parser("write", help="render everything in the layouts of VoxCeleb2 and CelebA-HQ")
    write.add_argument("--raw", type=Path, default=Path("data/raw"), help="folder for voxceleb2/ and celebahq/")
    write.add_argument("--workers", type=int, default=2)
    examples = commands.add_parser("examples", help="what the page of `python -m uniface demo` offers to try")
    examples.add_argument("-o", "--out", type=Path, default=EXAMPLES)
    use = commands.add_parser("use", help="one picture: what a model makes of those examples")
    use.add_argument("--model", default="models", help="file, folder, or models:/NAME@ALIAS")
    use.add_argument("--detector", type=Path, help="ONNX file that finds faces; default: the model's own")
    use.add_argument("-o", "--out", type=Path, default=Path("use.png"))
    args = parser.parse_args()
    params = load_or_exit()
    if args.command == "gallery":
        draw_gallery(args.out, args.identities, seed=params.seed)
        print(f"wrote {args.out}")
    elif args.command == "examples":
        showcase.write_examples(World(params.sample, params.seed), args.out)
        print(f"wrote {args.out}")
    elif args.command == "use":
        showcase.draw_use(uniface.load(args.model, detector=args.detector), EXAMPLES, args.out)
        print(f"wrote {args.out}")
    else:
        world = World(params.sample, params.seed)
        write_voxceleb2(world, args.raw / "voxceleb2", args.workers)
        write_celebahq(world, args.raw / "celebahq", args.workers)
        print(f"wrote {args.raw}/voxceleb2 and {args.raw}/celebahq")


if __name__ == "__main__":
    main()
