"""Tables that programs put into README.md, between `<!-- name -->` and `<!-- end -->`."""

import re
from pathlib import Path


def put(path: Path, name: str, text: str) -> None:
    """Replace what stands between a file's marks.

    Raises:
        ValueError: the file has no such marks.
    """
    marks = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
    content, found = marks.subn(lambda match: f"{match[1]}{text}\n{match[2]}", path.read_text())
    if not found:
        raise ValueError(f"{path}: has no marks <!-- {name} --> and <!-- end -->")
    path.write_text(content)
