"""Numbers as people read them: on the terminal, in notebooks, in report.html and in model cards."""


def percent(share: float, digits: int = 1) -> str:
    """0.927 → 92.7 %."""
    return f"{share * 100:.{digits}f} %"


def percent_range(low: float, high: float) -> str:
    """An interval of shares: 88.8 to 96.0."""
    return f"{low * 100:.1f} to {high * 100:.1f}"


def decimal_range(low: float, high: float, digits: int = 3) -> str:
    """An interval in decimals: 0.888 to 0.960."""
    return f"{low:.{digits}f} to {high:.{digits}f}"


def duration(seconds: float) -> str:
    """Seconds in units that suit their size: 2.5 s, 12 s, 1 min 5 s, 2 h 10 min."""
    whole = round(seconds)
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def short_duration(seconds: float) -> str:
    """Two digits of a short time: 0.061 s, 1.4 s; longer ones as `duration`."""
    return f"{seconds:.2g} s" if seconds < 9.95 else duration(seconds)


def file_size(size: float) -> str:
    """Bytes in decimal units: 3.4 MB."""
    if size < 1000:
        return f"{size:.0f} B"
    for unit in ("kB", "MB"):
        size /= 1000
        if size < 1000:
            return f"{size:.1f} {unit}"
    return f"{size / 1000:.1f} GB"


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """A number and its noun: 1 clip, 2 clips, 3 classes."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"
