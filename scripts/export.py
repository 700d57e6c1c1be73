"""Write a finished run's network in a format that others can read: `python scripts/export.py --help`."""

import argparse
import sys
from pathlib import Path

from midstate.common.errors import EXIT_BAD_CONFIG, EXIT_FAILED, EXIT_FINISHED, ConfigError, RunFailed
from midstate.common.secrets import say

FORMATS = {
    "dense": "a state dict of torch.save, for the unmodified network of torchvision or timm",
    "safetensors": "the same as safetensors",
    "small": "the network without its dead channels: a program of torch.export, and its weights as safetensors",
    "onnx": "for onnxruntime and others (needs the extra `export`)",
    "semi_structured": "2:4 linear layers as sparse tensor cores read them",
    "packed": "values and a bitmask a tensor, for any zeros",
}
OPTIONS = {"dtype": "semi_structured", "extracted": "onnx"}  # and the format that each belongs to


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says; returns the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    given = {name: value for name in OPTIONS if (value := getattr(options, name))}
    for name in given:
        if OPTIONS[name] != options.format:
            parser.error(f"--{name}: belongs to --format {OPTIONS[name]}")
    try:
        from midstate.runs.export import export_run  # imports torch, which --help does not need

        say(export_run(options.run, options.format, options.out, **given))
    except ConfigError as error:
        say(f"configuration error: {error}", sys.stderr)
        return EXIT_BAD_CONFIG
    except RunFailed as error:
        say(f"export failed: {error}", sys.stderr)
        return EXIT_FAILED
    return EXIT_FINISHED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Write a finished run's network in a format that others can read. Each file is read back and "
        "compared before it is written.\n\n" + "\n".join(f"  {name:16} {what}" for name, what in FORMATS.items()),
        epilog="docs/export.md says what reads each format, what becomes faster or smaller, and what does not.\n"
        "Exit status: 0 written, 2 there is nothing of that kind to write, 3 it could not be written.",
    )
    parser.add_argument("run", type=Path, help="its directory, such as outputs/nm/1a2b3c4d5e6f/seed0")
    parser.add_argument("--format", required=True, choices=FORMATS, metavar="NAME", help="one of the above")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: export/ in the run's directory")
    parser.add_argument(
        "--dtype", choices=("bf16", "fp16"), help="with --format semi_structured: type of its values (default: bf16)"
    )
    parser.add_argument(
        "--extracted", action="store_true", help="with --format onnx: the network without its dead channels"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
