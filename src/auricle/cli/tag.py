"""The command `tag`: what is in recordings, without training. As `cli`: no logic."""

import argparse
from pathlib import Path
from typing import Any

from auricle.cli.options import FILES_HELP, command, device_option, positive
from auricle.errors import UsageError

DEFAULT, TOP = "mn04", 5


def declare(commands: Any) -> None:
    """Add the command to the parser."""
    tag = command(
        commands, _tag, "auricle tag recordings/\nauricle tag night.flac --checkpoint mn10_as_mAP_471.pt --json"
    )
    tag.add_argument("files", nargs="+", metavar="FILE", help=FILES_HELP)
    checkpoint = (
        "mn04 or mn10, a file of EfficientAT's releases, or a folder that save_pretrained wrote (default: mn04)"
    )
    tag.add_argument("--checkpoint", default=DEFAULT, metavar="NAME|PATH", help=checkpoint)
    tag.output.add_argument("--top-k", type=positive, default=TOP, metavar="K", help="how many classes (default: 5)")
    device_option(tag)


def _tag(options: argparse.Namespace) -> int:
    """Name the everyday sounds in recordings, without training."""
    checkpoint = _checkpoint(options.checkpoint)
    from auricle.audio.recordings import recordings
    from auricle.cli import console
    from auricle.inference.tagging import WINDOW_SECONDS, open_tagger, tag

    screen, failed = console.Screen(options.json), False
    tagger = open_tagger(checkpoint)
    for done in tag(tagger, recordings(options.files), options.top_k):
        failed |= done.error is not None
        if options.json:
            print(done.to_json(), flush=True)
            continue
        is_long = done.seconds > WINDOW_SECONDS
        tags = (f"{one.label} {one.score:.2f}{f' at {one.start:.0f} s' if is_long else ''}" for one in done.tags)
        note = f"   ({'; '.join(done.warnings)})" if done.warnings else ""
        screen.line(done.name, ("   ".join(tags) or f"FAILED: {done.error}") + note)
    return 1 if failed else 0


def _checkpoint(given: str) -> Path:
    """The file or folder that --checkpoint names; nothing is downloaded. Raises UsageError."""
    if Path(given).exists():
        return Path(given)
    from auricle.models import catalogue

    names = [encoder.name for encoder in catalogue.ENCODERS if not encoder.is_on_hub]
    if given not in names:
        raise UsageError(
            f"--checkpoint received '{given}', and there is no such file or folder. Allowed: {' or '.join(names)}, a "
            "file of github.com/fschmid56/EfficientAT/releases, or a folder that save_pretrained wrote."
        )
    if catalogue.cached_path(given) is None:
        raise UsageError(
            f"The weights of '{given}' are not on this machine. Download them once: auricle encoders --fetch {given}; "
            "or name a file: --checkpoint mn04_as_mAP_432.pt."
        )
    return catalogue.weights_file(given)
