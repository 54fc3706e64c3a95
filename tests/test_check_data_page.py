"""The page of `check-data`: poses where they belong, mirrored and not, harmless whatever the files are called."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from damaged_set import config_file, copy_set, edit, source

from msposenet import geometry
from msposenet.config import load_config
from msposenet.data.doctor import diagnose
from msposenet.errors import ConfigError
from msposenet.inference.drawing import joint_colors
from msposenet.progress import Reporter
from msposenet.report.data_page import open_folder, write_page
from msposenet.report.data_samples import sample_persons
from msposenet.report.drawing import COLORS, joint_sides
from msposenet.report.escape import printable, text
from msposenet.skeletons import COCO_17

HOSTILE = "<script>alert(1)</script>"
_VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Collects the elements of a page and refuses what is not closed."""

    def __init__(self, content: str):
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict]] = []
        self.words: list[str] = []
        self.feed(content)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs), f"an attribute twice in {tag} {attrs}"
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.elements if name == tag]


def written(folder: Path, samples: int = 3, seed: int = 0, **data) -> tuple[Page, Path]:
    path = config_file(folder, **data)
    config = load_config(path)
    target = open_folder(folder / "page", samples)
    write_page(diagnose(config, 1, Reporter(quiet=True)), config, str(path), target, samples, seed)
    return Page((target / "index.html").read_text()), target


def test_page_is_whole_and_needs_nobody(tmp_path):
    annotations = copy_set(tmp_path / "set")
    page, folder = written(tmp_path, train=[source(annotations)], val=[source(annotations)])
    pictures = page.all("img")
    assert len(pictures) == 3 * 5 + 3 * 3, "as annotated, two crops and two mirrored; of validation one of each"
    for picture in pictures:
        assert picture["alt"].startswith("annotation ")
        pixels = cv2.imread(str(folder / picture["src"]))
        assert pixels.shape[:2] == (int(picture["height"]), int(picture["width"]))
    overlays = [attributes for attributes in page.all("svg") if attributes.get("class") not in ("mark", "chart")]
    assert [f"0 0 {picture['width']} {picture['height']}" for picture in pictures] == [
        overlay["viewbox"] for overlay in overlays
    ]
    assert all(chart["aria-label"] for chart in page.all("svg") if chart.get("class") == "chart")
    addresses = [
        value for _, attributes in page.elements for key, value in attributes.items() if key in ("src", "href")
    ]
    assert all(re.fullmatch(r"#set\d+|report\.json|pictures/[\w.]+", address) for address in addresses)
    assert not page.all("script") and not page.all("link")
    assert {path.name for path in folder.iterdir()} == {"index.html", "report.json", "pictures"}
    words = " ".join(page.words)
    assert words.count("not mirrored") >= 6 and "3 sets" not in words and "2 sets" in words
    assert "24 pictures" in words or "48 pictures" in words


def test_hostile_names_stay_text(tmp_path):
    annotations = copy_set(tmp_path / "set", pictures=4)
    evil = '"><img src=x onerror=alert(1)>\u202e\u001b[2J.jpg'

    def change(content):
        content["categories"][0].update(keypoints=[HOSTILE, *content["categories"][0]["keypoints"][1:]])
        for image, name in zip(content["images"], (evil, "<b>missing</b>.jpg")):
            if name == evil:
                (tmp_path / "set" / "images" / image["file_name"]).rename(tmp_path / "set" / "images" / name)
            image["file_name"] = name

    edit(annotations, change)
    title = "<h1>mine</h1>"
    page, folder = written(tmp_path, samples=20, train=[source(annotations, name=title)])
    raw = (folder / "index.html").read_text()
    harms = ("<script", "<img src=x", "<b>missing", "<h1>mine", "\x1b", "\u202e")
    assert [harm for harm in harms if harm in raw] == []
    assert not any(attribute.startswith("on") for _, attributes in page.elements for attribute in attributes)
    assert len(page.all("h1")) == 1 and not page.all("script")
    words = "".join(page.words)
    assert HOSTILE in words and "<b>missing</b>.jpg" in words and title in words
    assert "onerror=alert(1)>\\u202e\\x1b[2J.jpg" in words
    assert json.loads((folder / "report.json").read_text())["sets"][0]["joints"][0]["name"] == HOSTILE


def test_printable():
    assert printable("Åse 姿 \n\x1b[31m\udcff") == "Åse 姿 \\n\\x1b[31m\\udcff"
    assert text("a<b>&\"'") == "a&lt;b&gt;&amp;&quot;&#x27;"


def lone_person(folder: Path) -> dict:
    """One dark picture with a bright spot at every joint of one person."""
    rng = np.random.default_rng(1)
    image = np.zeros((160, 300, 3), np.uint8)
    keypoints = []
    for name in COCO_17.joints:
        # A face seen from the front, left joints on the picture's right; the spots stay apart.
        place = len(keypoints)
        x = 120 + (60 if name.startswith("left") else 0) + int(rng.integers(0, 6))
        y = 12 + 8 * place
        cv2.circle(image, (x, y), 1, (255, 255, 255), -1)
        keypoints.append([0, 0, 0] if name == "right_ear" else [x, y, 1 if name == "left_wrist" else 2])
    cv2.imwrite(str(folder / "one.png"), image)
    person = {
        "id": 5, "image_id": 1, "category_id": 1, "bbox": [100, 5, 110, 145], "area": 9000, "iscrowd": 0,
        "keypoints": [value for joint in keypoints for value in joint], "num_keypoints": 16,
    }  # fmt: skip
    category = {"id": 1, "name": "person", "keypoints": list(COCO_17.joints), "skeleton": []}
    images = [{"id": 1, "file_name": "one.png", "width": 300, "height": 160}]
    annotations = folder / "one.json"
    annotations.write_text(json.dumps({"images": images, "annotations": [person], "categories": [category]}))
    return {"annotations": str(annotations), "images": str(folder)}


def shots_of(folder: Path, part: str, **augmentation):
    path = config_file(folder, **{part: [lone_person(folder)]}, augmentation=augmentation)
    config = load_config(path, ["data.input=[256,192]"])
    [checked] = diagnose(config, 1, Reporter(quiet=True)).sets
    [person] = sample_persons(checked, config, 1, 0)
    return person.shots


@pytest.mark.parametrize("part", ["train", "val"])
def test_every_joint_lies_on_its_spot(part, tmp_path):
    """In the picture as annotated and in every crop, rotated, enlarged and mirrored ones too."""
    shots = shots_of(tmp_path, part, half_body=0.0)
    assert shots[0].words[0] == "as annotated"
    mirrored = [shot.words[0] == "mirrored" for shot in shots[1:]]
    assert mirrored == ([False, False, True, True] if part == "train" else [False, True])
    for shot in shots:
        grey = cv2.GaussianBlur(shot.pixels[..., 0].astype(np.float32), (0, 0), 1.0)
        height, width = grey.shape
        seen = 0
        for x, y, visibility in shot.joints:
            if visibility and 4 < x < width - 5 and 4 < y < height - 5:
                window = grey[round(y) - 4 : round(y) + 5, round(x) - 4 : round(x) + 5]
                top, left = np.unravel_index(window.argmax(), window.shape)
                assert np.hypot(left + round(x) - 4 - x, top + round(y) - 4 - y) < 2.0
                seen += 1
        assert seen >= 8
    x, y, w, h = shots[0].box
    scale = h / 144  # HRNet's clipping makes boxes 1 px smaller
    assert w == pytest.approx(109 * scale)
    assert shots[0].joints[0, 1] - y == pytest.approx((12 - 5) * scale, abs=0.01)


def test_mirrored_crops_swap_sides(tmp_path):
    plain, same, mirrored, _ = shots_of(tmp_path, "train", half_body=0, scale=0, rotation=0)[1:]
    np.testing.assert_array_equal(plain.pixels, same.pixels)
    expected = geometry.flip_keypoints(plain.joints, 192, COCO_17.flip_index)
    np.testing.assert_allclose(mirrored.joints, expected, atol=1e-3)
    assert np.abs(mirrored.pixels.astype(int) - plain.pixels[:, ::-1]).mean() < 1
    left, right = COCO_17.index("left_shoulder"), COCO_17.index("right_shoulder")
    for shot in (plain, mirrored):  # someone who faces the camera has the left on the picture's right, mirrored too
        assert shot.joints[left, 0] > shot.joints[right, 0]


@pytest.mark.parametrize(("flip", "kinds"), [(0.0, {"not mirrored"}), (1.0, {"mirrored"})])
def test_without_or_only_mirrored_crops(flip, kinds, tmp_path):
    assert {shot.words[0] for shot in shots_of(tmp_path, "train", flip=flip)[1:]} == kinds


def test_samples_are_seeded_and_spread(tmp_path):
    path = config_file(tmp_path, [source(copy_set(tmp_path / "set"))])
    config = load_config(path)
    [checked] = diagnose(config, 1, Reporter(quiet=True)).sets

    def drawn(count, seed):
        return [person.annotation_id for person in sample_persons(checked, config, count, seed)]

    assert drawn(4, 0) == drawn(4, 0) != drawn(4, 1)
    everybody = checked.set.records.annotation_ids.tolist()
    assert drawn(1000, 3) == everybody
    places = [everybody.index(found) * 4 // len(everybody) for found in drawn(4, 5)]
    assert places == [0, 1, 2, 3]
    assert drawn(0, 0) == []


def test_a_second_report_replaces_the_first(tmp_path):
    annotations = copy_set(tmp_path / "set")
    written(tmp_path, samples=4, train=[source(annotations)])
    page, folder = written(tmp_path, samples=1, train=[source(annotations)])
    assert len(list((folder / "pictures").iterdir())) == len(page.all("img")) == 5


LEFT_BEHIND = {
    "nothing": ([], True),
    "pictures of a check that was broken off": (["pictures/set00_person001_2.jpg"], True),
    "a page without its report": (["pictures/set00_person001_2.jpg", "index.html"], True),
    "a picture of somebody's": (["pictures/holiday.jpg"], False),
    "a file of somebody's": (["notes.txt"], False),
    "another page": (["report.json"], False),
}


@pytest.mark.parametrize(("files", "taken"), LEFT_BEHIND.values(), ids=LEFT_BEHIND)
def test_folders_that_are_taken(files, taken, tmp_path):
    folder = written(tmp_path, samples=0, train=[source(copy_set(tmp_path / "set", pictures=4))])[1]
    for name in files:
        path = tmp_path / "out" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((folder / name).read_bytes() if name == "index.html" else b"<html>" * 100)
    if taken:
        open_folder(tmp_path / "out", 1)
    else:
        with pytest.raises(ConfigError, match="out: holds something else than a report"):
            open_folder(tmp_path / "out", 1)


def test_sides_have_the_colours_of_all_other_drawings():
    shown = [tuple(int(COLORS[side][at : at + 2], 16) for at in (1, 3, 5)) for side in joint_sides(COCO_17)]
    assert shown == joint_colors(COCO_17)
