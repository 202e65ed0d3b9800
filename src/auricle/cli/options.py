"""What the commands share: how a command and its common options are declared, and how a recipe is read from them.

Nothing heavy is imported before arguments and paths are checked. The options that set a recipe value have the names
that `auricle.train` takes in Python: `recipes.NAMED_SETTINGS`.
"""

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

from auricle.errors import UsageError, unknown
from auricle.models import device

if TYPE_CHECKING:
    from auricle.recipe import Recipe

DATA_HELP = "a folder, archive (.zip, .tar), table (.csv, .parquet), quoted glob, URL, or Hugging Face data set"
FILES_HELP = "files, folders, archives, globs, or - for standard input"
RUN_HELP = "a run folder (as `auricle train` wrote it), a model folder, or an exported folder"


class Parser(argparse.ArgumentParser):
    """argparse with the message before the usage, and a group of options for output, shown last."""

    @cached_property
    def output(self) -> Any:
        return self.add_argument_group("output")

    def format_help(self) -> str:
        self._action_groups.sort(key=lambda group: group.title == "output")
        return super().format_help()

    def refuse(self, argument: str) -> NoReturn:
        """Exit for an argument that the command does not take."""
        option = argument.partition("=")[0]
        if not option.startswith("-"):
            self.error(f"received '{argument}', which is one argument too many. Quote a path that has blanks.")
        self.error(unknown("option", option, (text for action in self._actions for text in action.option_strings)))

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"auricle: {message}\n{self.format_usage()}")


def command(commands: Any, call: Callable[[argparse.Namespace], int], example: str) -> Parser:
    """Declare the command of a function, by its name and docstring; `example` is shown below the options."""
    description = call.__doc__ or ""
    parser: Parser = commands.add_parser(
        call.__name__.strip("_").replace("_", "-"),
        help=description[:1].lower() + description[1:].rstrip("."),
        description=description,
        epilog="example:\n" + "\n".join(f"  {line}" for line in example.splitlines()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.output.add_argument("--json", action="store_true", help="print JSON for programs instead of tables")
    parser.output.add_argument("--verbose", action="store_true", help="log what the library does to standard error")
    parser.set_defaults(call=call, parser=parser)
    return parser


def corpus_options(
    parser: argparse.ArgumentParser, *, corrections: bool = True, only_recipe: str | None = None
) -> None:
    """How a corpus is read and divided, for every command that takes labelled recordings; `only_recipe` is the recipe
    of a command that does not let the user choose one.
    """
    parser.add_argument("data", metavar="DATA", help=DATA_HELP)
    data = parser.add_argument_group("data")
    data.add_argument("--reader", metavar="NAME", help="how to read the layout, such as folder (default: recognised)")
    data.add_argument(
        "--label", metavar="FIELD", help="what holds the class: a column (species), folder:2, or name:1 (of file names)"
    )
    data.add_argument(
        "--group", metavar="FIELD", help="what must not cross the split: a column (speaker), folder:1, name:1, or none"
    )
    data.add_argument("--pattern", metavar="TEXT", help="the fields of the paths, such as '{group}_{label}_{take}.wav'")
    data.add_argument(
        "--split",
        metavar="KIND",
        help="auto, predefined, holdout, folds, leave-one-group-out, random, or a split.json (default: auto)",
    )
    data.add_argument("--folds", type=int, metavar="N", help="cross-validate with N folds, such as 5")
    data.add_argument("--test", type=float, metavar="SHARE", help="share of the clips to test on (default: 0.2)")
    if corrections:
        data.add_argument("--corrections", metavar="FILE", help="a CSV of corrected labels that `auricle listen` wrote")
    data.add_argument("--strict", action="store_true", default=None, help="stop at unusable clips; else exclude them")
    recipe = parser.add_argument_group("recipe")
    known = "baseline, sound, probe, emotion, genre, speaker, or a YAML file (default: sound; or probe, if better)"
    if only_recipe is None:
        recipe.add_argument("--recipe", metavar="NAME|FILE", help=known)
    else:
        parser.set_defaults(recipe=only_recipe)
    change = "change any recipe key, such as train.crop_seconds=3; repeatable"
    recipe.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=change)


def training_options(parser: argparse.ArgumentParser) -> None:
    """What is changed most often about a training."""
    training = parser.add_argument_group("training")
    training.add_argument(
        "--checkpoint",
        metavar="MODEL",
        help="the pretrained model: a name of `auricle encoders`, a Hub name, or a folder",
    )
    training.add_argument("--epochs", type=int, metavar="N", help="passes over the training clips, such as 20")
    training.add_argument("--batch-size", type=int, metavar="N", help="clips per training step, such as 16")
    training.add_argument("--learning-rate", type=float, metavar="RATE", help="peak learning rate, such as 0.001")
    training.add_argument("--seed", type=int, metavar="N", help="seed of weights and batches (default: 0)")
    device_option(training)


def engine_options(parser: argparse.ArgumentParser) -> None:
    """Where the work on each clip runs; not part of the recipe, as its result is the same."""
    group = parser.add_argument_group("engine")
    engine = "what works on many clips: processes of this machine, or a Ray cluster (default: local)"
    group.add_argument("--engine", choices=("local", "ray"), default="local", help=engine)
    address = "a running cluster, such as 10.0.0.1:6379 (default: one on this machine alone)"
    group.add_argument("--ray-address", metavar="ADDRESS", help=address)


def device_option(parser: Any) -> None:
    """Where models run; not part of the recipe, so that the same recipe runs on another machine."""
    help = "auto, cpu, cuda, cuda:N or mps (default: auto, CUDA if there is a GPU)"
    parser.add_argument("--device", type=_device, default="auto", metavar="NAME", help=help)


def model_options(parser: argparse.ArgumentParser) -> None:
    """How a trained model is loaded and answers, for every command that loads one."""
    model = parser.add_argument_group("model")
    model.add_argument(
        "--precision",
        choices=("auto", "float32", "bf16"),
        default="auto",
        help="of pretrained encoders (default: auto, bf16 where the processor multiplies it natively)",
    )
    model.add_argument(
        "--runtime",
        choices=("auto", "torch", "onnx"),
        default="auto",
        help="what runs the model (default: auto, PyTorch where it is installed)",
    )
    model.add_argument(
        "--no-unknown", dest="refuse", action="store_false", help='always name a class, never answer "unknown"'
    )
    device_option(model)


def positive(text: str) -> int:
    """Parse a whole number from 1 up, for argparse."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from 1 up")
    return int(text)


def recipe_of(options: argparse.Namespace) -> "Recipe":
    """The recipe that the options name, or the default, with what they change, for DATA that exists.

    Only training imports and checks its model family.
    """
    from auricle import recipes
    from auricle.corpus.read import check_location
    from auricle.corpus.split_kinds import check_kind

    recipe = options.recipe or recipes.DEFAULT
    resolved = recipes.load(recipe, options.set, named_settings(options), lambda name: f"--{name.replace('_', '-')}")
    check_kind(resolved.data)
    check_location(options.data, resolved.data.reader)
    return resolved


def named_settings(options: argparse.Namespace) -> Mapping[str, Any]:
    """The recipe values that have options of their own, by name, where they are given."""
    from auricle import recipes

    return {name: value for name in recipes.NAMED_SETTINGS if (value := getattr(options, name, None)) is not None}


def json_only(options: argparse.Namespace) -> contextlib.AbstractContextManager[Any]:
    """With --json, standard output is for the answer alone: what a library prints goes to standard error."""
    return contextlib.redirect_stdout(sys.stderr) if options.json else contextlib.nullcontext()


def print_json(content: Any) -> None:
    json.dump(content, sys.stdout, ensure_ascii=False, indent=1)
    print()


def _device(text: str) -> str:
    try:
        device.check(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text
