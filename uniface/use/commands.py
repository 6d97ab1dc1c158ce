"""The commands `swap`, `reenact`, `demo`, `export` and `verify` of `python -m uniface`."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from uniface.config import TASKS

if TYPE_CHECKING:
    from uniface.use.api import FaceEditor
    from uniface.use.origin import Mark

VERBS = {"reenact": "reenactment", "swap": "swapping"}


def add(commands: argparse._SubParsersAction) -> None:
    """Add the commands to the parser of `python -m uniface`."""
    for verb, task in VERBS.items():
        does = "the portrait SOURCE moves as TARGET does" if verb == "reenact" else "TARGET gets the face of SOURCE"
        command = commands.add_parser(verb, help=f"{does}; TARGET is a picture or a video")
        command.add_argument("source", type=Path, help="picture that gives the identity")
        command.add_argument("target", type=Path, help="picture or video that gives the attributes")
        command.add_argument("-o", "--out", type=Path, required=True, help="picture or video to write")
        command.add_argument("--model", help="file, folder, or models:/NAME@ALIAS; default: models, else pretrained")
        command.add_argument("--detector", type=Path, help="ONNX file that finds faces; default: the model's own")
        command.add_argument("--face", type=_face, default="largest", metavar="largest|all|left|N", help="of TARGET")
        command.add_argument("--crop", action="store_true", help="SOURCE and TARGET are square face crops already")
        command.add_argument("--no-smooth", action="store_true", help="leave the boxes of a video as detected")
        command.add_argument("--no-mark", action="store_true", help="do not say in the file that it is synthetic")
        command.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps")
        command.add_argument("--half", action="store_true", help="compute in bfloat16: faster, a little less exact")
        command.set_defaults(run=_edit, task=task)

    command = commands.add_parser("demo", help="a page to try a model in the browser")
    command.add_argument("--model", help="file, folder, or models:/NAME@ALIAS; default: models, else pretrained")
    command.add_argument("--detector", type=Path, help="ONNX file that finds faces; default: the model's own")
    command.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps")
    command.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen at; any but this machine's own needs UNIFACE_DEMO_PASSWORD",
    )
    command.add_argument("--port", type=int, default=7860)
    command.set_defaults(run=_demo)

    command = commands.add_parser("export", help="write a model as ONNX, checked against torch")
    command.add_argument("model", help="file, folder, or models:/NAME@ALIAS")
    command.add_argument("-o", "--out", type=Path, required=True, help="the .onnx file to write")
    command.add_argument("--task", choices=TASKS, help="where the model has both")
    command.add_argument("--half", action="store_true", help="float16 inside; inputs and outputs stay float32")
    command.add_argument("--split", action="store_true", help="two graphs: OUT.source.onnx and OUT.frame.onnx")
    command.set_defaults(run=_export)

    command = commands.add_parser("verify", help="read a file's mark of origin")
    command.add_argument("file", type=Path)
    command.set_defaults(run=_verify)


def _face(text: str) -> str | int:
    if text in ("largest", "all", "left"):
        return text
    if text.isdigit() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is none of largest, all, left, 1, 2, ...")


def _edit(options: argparse.Namespace) -> None:
    from uniface.use import api, bundle, origin, pictures, video

    _writable(options.out)
    for path in (options.source, options.target):
        if not path.is_file():
            raise FileNotFoundError(f"no file at {path}")
    moving = video.is_video(options.target)
    if options.face == "all" and options.task == "reenactment":
        raise ValueError("--face all: a reenactment follows one face; use largest, left or a number")
    if not options.no_mark:
        origin.check(options.out)
    model = options.model or bundle.default() / f"{options.task}.safetensors"
    editor = api.load(model, options.device, options.detector, options.half)
    digest = editor.digest(options.task)
    mark = None
    if not options.no_mark:
        composite = options.task == "swapping" and not options.crop
        mark = origin.Mark(options.task, composite, editor.files.version, digest)
    if moving:
        _video(options, editor, mark, digest)
        return
    source, target = pictures.read(options.source), pictures.read(options.target)
    verb = editor.swap if options.task == "swapping" else editor.reenact
    image = verb(source, target, face=options.face, crop=options.crop)
    pictures.write(options.out, image, mark, options.target if mark and mark.composite else None)
    reduced = [note for note in target.notes if note in ("16-bit", "cmyk")]
    print(f"wrote {options.out}{f' (the target was {reduced[0]}: written with 8 bits of RGB)' if reduced else ''}")


def _writable(out: Path) -> None:
    """Raise before any work is done for a file that could not be written."""
    folder = next((parent for parent in out.absolute().parents if parent.exists()), Path("/"))
    if out.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ValueError(f"{out} cannot be written: {'it is a folder' if out.is_dir() else f'look at {folder}'}")


def _video(options: argparse.Namespace, editor: "FaceEditor", mark: "Mark | None", digest: str) -> None:
    from uniface.use import bundle, video

    session = editor.session(
        options.task,
        options.source,
        face=options.face,
        smooth=not options.no_smooth,
        fps=video.rate(options.target),
        crop=options.crop,
    )
    settings = (options.task, digest, bundle.sha256(options.source), options.face, options.no_smooth, options.crop)
    key = repr((*settings, options.half, options.device))
    done = video.edit(session, options.target, options.out, mark, key, as_parent=bool(mark and mark.composite))
    lost = f", {done.lost} without the face (passed unchanged)" if done.lost else ""
    print(f"wrote {options.out}: {done.frames} frames{lost}, {done.detected} looked at by the detector")


def _export(options: argparse.Namespace) -> None:
    from uniface.model import UniFace
    from uniface.use import bundle, onnx

    _writable(options.out)
    models = bundle.find(options.model).models
    if options.task not in (None, *models):
        raise ValueError(f"{options.model} has no model for {options.task}")
    if options.task is None and len(models) > 1:
        raise ValueError(f"{options.model} serves both tasks: say --task reenactment or --task swapping")
    task = options.task or next(iter(models))
    model = UniFace.load(models[task])
    for path, difference in onnx.export(model, task, options.out, options.half, options.split).items():
        print(f"wrote {path}: largest difference to torch {difference:.1e}")


def _demo(options: argparse.Namespace) -> None:
    from uniface.use import api, bundle, demo

    password = os.environ.get(demo.PASSWORD, "")
    demo.check(options.host, password)
    editor = api.load(options.model or bundle.default(), options.device, options.detector)
    demo.serve(editor, options.host, options.port, password)


def _verify(options: argparse.Namespace) -> None:
    from uniface.use.origin import verify

    verdict = verify(options.file)
    print(f"{options.file}: {verdict.state} ({verdict.reason})")
    for name, value in verdict.mark.items():
        print(f"  {name}: {value}")
