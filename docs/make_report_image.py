"""`python -m docs.make_report_image [RUN]`: the picture of a report in the README, taken by headless Chromium.

In: a run folder, by default a demo made on the spot. Out: docs/report.png, the top of its report.html.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

PICTURE = Path(__file__).with_name("report.png")
WIDTH, HEIGHT = 1180, 760
MAX_BYTES = 300_000


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="auricle-report-") as folder:
        if len(sys.argv) > 1:
            run = Path(sys.argv[1])
        else:
            subprocess.run([sys.executable, "-m", "auricle", "demo", "--out", f"{folder}/demo"], check=True)
            run = Path(folder) / "demo" / "run"
        page = (run / "report.html").resolve().as_uri()
        options = ["--headless", "--no-sandbox", "--hide-scrollbars", f"--window-size={WIDTH},{HEIGHT}"]
        subprocess.run(
            ["chromium", *options, f"--user-data-dir={folder}/profile", f"--screenshot={PICTURE}", page], check=True
        )
    _reduce_colors()
    size = PICTURE.stat().st_size
    if size > MAX_BYTES:
        raise SystemExit(f"{PICTURE} has {size} bytes, more than {MAX_BYTES}.")
    print(f"{PICTURE}: {size} bytes")


def _reduce_colors() -> None:
    """A page of text needs 64 colours, not millions."""
    from PIL import Image

    with Image.open(PICTURE) as picture:
        picture.convert("RGB").quantize(64).save(PICTURE, optimize=True)


if __name__ == "__main__":
    main()
