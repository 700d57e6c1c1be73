"""Files of figures."""

from matplotlib import pyplot as plt

from midstate.study.drawing import save


def test_a_figure_is_replaced_whole(tmp_path):
    """A second name of the old file shows whether the new one was written into it."""
    first, second = plt.figure(figsize=(1, 1)), plt.figure(figsize=(1, 1))
    second.text(0.5, 0.5, "another")
    save(first, tmp_path, "c1")
    for kind in ("png", "pdf"):
        (tmp_path / f"old.{kind}").hardlink_to(tmp_path / f"c1.{kind}")
    before = {path.suffix: path.read_bytes() for path in tmp_path.glob("old.*")}
    assert save(second, tmp_path, "c1") == tmp_path / "c1.png"
    assert {path.suffix: path.read_bytes() for path in tmp_path.glob("old.*")} == before
    assert all(path.read_bytes() != before[path.suffix] for path in tmp_path.glob("c1.*"))
