"""Put the best weights of a run into model_zoo/, named by their hash, with their facts beside them.

    python train/publish_weights.py retinaface_mobilenet0.25_mask --run runs/mask --facts facts.json

``facts.json`` holds what only a person knows: licence, terms, research_only, data, start, recipe (see
gluonface.model_zoo.ModelFacts). Facts already in model_zoo/<name>.json are kept where the file does not name them.
Options that the net was trained with (``--channels 64``) are kept as ``options``: get_model(name, pretrained=True)
builds that net, get_model(name) the model's own.
``--raise network.scale_head.bias 3.66`` adds that to a parameter: a net whose targets are soft tells faces by
probabilities of a few hundredths; raised logits rank as they did, with .5 as the bound between faces and others.
Figures come from benchmarks/make_tables.py afterwards. An older weights file of the model is removed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path

from gluonface.files import write_atomically
from gluonface.model_zoo import get_model, store
from gluonface.model_zoo.weights import read_facts

ZOO = Path(__file__).resolve().parents[1] / "model_zoo"
#: Options of get_model that change what the weights of a net are, or what they mean.
OPTIONS = {"channels": int, "k0": float, "roi_scale": float, "filters": int, "stem": int}


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="model the weights belong to")
    parser.add_argument("--run", type=Path, required=True, help="folder of the run")
    parser.add_argument("--weights", default="best.params", help="file in the run's folder (default: %(default)s)")
    parser.add_argument("--facts", type=Path, help="JSON file of facts to set")
    trained = parser.add_argument_group("what the net was trained with, where not the model's own")
    for option, kind in OPTIONS.items():
        trained.add_argument(f"--{option.replace('_', '-')}", type=kind, metavar="N" if kind is int else "X")
    parser.add_argument(
        "--raise", dest="raised", nargs=2, metavar=("PARAMETER", "X"), help="add a number to this parameter, see above"
    )
    parser.add_argument("--zoo", type=Path, default=ZOO, help="folder to publish to (default: the package's)")
    args = parser.parse_args(argv)
    source = args.run / args.weights
    options = {option: getattr(args, option) for option in OPTIONS if getattr(args, option) is not None}
    net = get_model(args.name, **options)
    net.load_parameters(source)  # raises where the weights are not this model's
    with tempfile.TemporaryDirectory() as folder:
        if args.raised:
            source = _raised(parser, net, *args.raised, Path(folder) / "raised.params")
        publish(args, source, options)


def _raised(parser: argparse.ArgumentParser, net, name: str, by: str, path: Path) -> Path:
    """Weights with a number added to one of the parameters, in a file."""
    parameters = net._collect_params_with_prefix()
    if name not in parameters:
        parser.error(f"--raise: expected a parameter such as {', '.join(list(parameters)[-3:])}, got {name}")
    parameters[name].set_data(parameters[name].data() + float(by))
    net.save_parameters(str(path))
    return path


def publish(args: argparse.Namespace, source: Path, options: dict) -> None:
    """Put a file of weights, and its facts, into the folder."""
    digest = store.sha256_file(source)
    path = args.zoo / f"{args.name}.json"
    facts = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    previous = facts.get("file")
    if args.facts:
        facts.update(json.loads(args.facts.read_text(encoding="utf-8")))
    facts.pop("options", None)  # those of the weights before
    if options:
        facts["options"] = options
    facts.update(file=f"{args.name}-{digest[:8]}.params", sha256=digest)
    shutil.copyfile(source, args.zoo / facts["file"])
    write_atomically(path, json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
    read_facts(args.name, args.zoo)
    if previous and previous != facts["file"]:
        (args.zoo / previous).unlink(missing_ok=True)
    curves = args.run / "curves.png"
    if curves.exists():
        (args.zoo / "img").mkdir(exist_ok=True)
        shutil.copyfile(curves, args.zoo / "img" / f"{args.name}_curves.png")
    print(f"{facts['file']}: {(args.zoo / facts['file']).stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
