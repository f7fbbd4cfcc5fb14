"""Draws the rooms of tests/test_layering.py into images/architecture.svg: python docs/rooms.py."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "images" / "architecture.svg"
# The part of the picture that is drawn here.
PART = re.compile(r"(?<=<!-- rooms -->\n).*(?=  <!-- end of rooms -->)", re.DOTALL)
LEFT, WIDTH, TOP, BOTTOM, GAP = 28.0, 432.0, 350.0, 757.0, 6.0


def floors() -> tuple[tuple[str, ...], ...]:
    """The floors, from the bottom up; a folder's name ends in a slash."""
    tree = ast.parse((ROOT / "tests" / "test_layering.py").read_text(encoding="utf-8"))
    (value,) = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "FLOORS"
    ]
    package = ROOT / "src" / "kforecast"
    found = ast.literal_eval(value)
    return tuple(
        tuple(f"{room}/" if (package / room).is_dir() else room for room in floor) for floor in found
    )


def drawn(floors: tuple[tuple[str, ...], ...]) -> str:
    """The rooms as SVG, the highest floor first."""
    lines, pitch = [], (BOTTOM - TOP) / len(floors)
    height = pitch - 3.6
    for number, floor in enumerate(reversed(floors)):
        width = (WIDTH + GAP) / len(floor) - GAP
        for column, room in enumerate(floor):
            x, y = LEFT + column * (width + GAP), TOP + number * pitch
            box = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="4"'
            middle = f'x="{x + width / 2:.1f}" y="{y + height / 2 + 4.3:.1f}"'
            lines += [f'  <rect class="room" {box}/>', f'  <text class="small mid" {middle}>{room}</text>']
    return "\n".join([*lines, ""])


def redrawn(picture: str) -> str:
    """The picture with the rooms of now."""
    return PART.sub(lambda _: drawn(floors()), picture)


if __name__ == "__main__":
    PICTURE.write_text(redrawn(PICTURE.read_text(encoding="utf-8")), encoding="utf-8")
