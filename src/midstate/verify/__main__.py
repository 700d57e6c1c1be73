"""Tell which N:M pattern the layers of a checkpoint obey: `python -m midstate.verify --help`."""

import argparse
import re
import sys
from pathlib import Path

from midstate.common.errors import EXIT_BAD_CONFIG
from midstate.common.secrets import say, show_any_letter

LARGEST = 4096  # largest M


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    show_any_letter()
    options = _parser().parse_args(arguments)
    if not options.file.is_file():
        files = sorted(options.file.glob("checkpoints/final.pt"))
        hint = f"is a directory; name a file, such as {files[0] if files else options.file / 'model.pt'}"
        say(f"{options.file}: {hint if options.file.is_dir() else 'no such file'}", sys.stderr)
        return EXIT_BAD_CONFIG
    import torch  # slow to import, so only when needed

    from midstate.verify.judging import judged
    from midstate.verify.reading import NoCheckpoint
    from midstate.verify.report import as_json, as_text

    torch.set_num_threads(1)  # more threads are slower: they wait for each other
    try:
        verdict = judged(options.file, options.pattern)
    except NoCheckpoint as error:
        say(str(error), sys.stderr)
        return EXIT_BAD_CONFIG
    say((as_json if options.json else as_text)(verdict, options.all))
    return verdict.status(options.all)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m midstate.verify",
        description="Tell of every layer in a checkpoint whether it obeys an N:M pattern (at most N of M neighbouring "
        "weights are not zero), and along which axis: input channels, input channels and kernel flattened, or "
        "outputs. The file may be anybody's: a state dict, safetensors, or a .pt2 of torch.export. Only tensors are "
        "read; no code in it is run.",
        epilog="Exit status: 0 at least one layer obeys and every other is dense or all zero (with --all: none is "
        "dense), 1 not so, 2 the file is no checkpoint.",
    )
    parser.add_argument("file", type=Path, help="such as outputs/nm/1a2b3c4d5e6f/seed0/checkpoints/final.pt")
    parser.add_argument(
        "--pattern", type=_pattern, metavar="N:M", help="default: the tightest that each layer obeys, M of 2 to 32"
    )
    parser.add_argument("--all", action="store_true", help="ask it of all layers, also of those that are dense")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _pattern(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,4}):(\d{1,4})", text)
    n, m = map(int, found.groups()) if found else (0, 0)
    if not 1 <= n < m <= LARGEST:
        raise argparse.ArgumentTypeError(f"{text}: must be N:M with 1 <= N < M <= {LARGEST}, such as 2:4")
    return n, m


if __name__ == "__main__":
    sys.exit(main())
