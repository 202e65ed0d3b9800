"""The command `tag`: what is in recordings, without training. As `cli`: no logic."""

import argparse
from pathlib import Path
from typing import Any

from auricle.cli.options import FILES_HELP, command, device_option, positive
from auricle.errors import UsageError

TOP = 5


def declare(commands: Any) -> None:
    """Add the command to the parser."""
    tag = command(commands, _tag, "auricle tag recordings/ --checkpoint mn04_as_mAP_432.pt")
    tag.add_argument("files", nargs="+", metavar="FILE", help=FILES_HELP)
    checkpoint = "a file of EfficientAT's releases, or a folder that save_pretrained wrote"
    tag.add_argument("--checkpoint", type=Path, metavar="PATH", help=checkpoint)
    tag.output.add_argument("--top-k", type=positive, default=TOP, metavar="K", help="how many classes (default: 5)")
    device_option(tag)


def _tag(options: argparse.Namespace) -> int:
    """Name the everyday sounds in recordings, without training."""
    name = "Name a file of github.com/fschmid56/EfficientAT/releases: --checkpoint mn04_as_mAP_432.pt."
    if options.checkpoint is None:
        raise UsageError(f"tag received no --checkpoint. {name}")
    if not options.checkpoint.exists():
        raise UsageError(f"--checkpoint received '{options.checkpoint}', and there is no such file or folder. {name}")
    from auricle.audio.recordings import recordings
    from auricle.cli import console
    from auricle.inference.tagging import WINDOW_SECONDS, open_tagger, tag

    screen, failed = console.Screen(options.json), False
    tagger = open_tagger(options.checkpoint)
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
