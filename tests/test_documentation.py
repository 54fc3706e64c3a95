"""README, docs/ and configs/: every command and example in them runs, every table is what the code says.

Pages run block after block, as they are written (documents.py), in a folder with small stand-ins for what they presume:
COCO's files, people of one's own, a photograph, published weights, the demo's run.
"""

from __future__ import annotations

import ast
import configparser
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
import yaml
from documents import PROJECT, blocks, lay_out, plain, publish_weights, read, run_page, table

import msposenet.errors
from msposenet.cli.main import app
from msposenet.config import Config, Section, SkeletonConfig, Source, build_config, load_config
from msposenet.data.formats.coco import read_coco
from msposenet.data.formats.detections import read_detections
from msposenet.evaluation.results import check_results
from msposenet.inference.deployed import Deployment
from msposenet.models.build import sanity_check
from msposenet.models.summary import GIBI, summarise
from msposenet.models.zoo import get_model, list_models
from msposenet.skeletons import COCO_17

PAGES = ["README.md", *sorted(f"docs/{path.name}" for path in (PROJECT / "docs").glob("*.md"))]
CONFIGS = sorted(path.name for path in (PROJECT / "configs").glob("*.yaml"))
VERBS = typer.main.get_command(app).commands


@pytest.fixture(scope="module")
def after_readme(tmp_path_factory) -> Path:
    """The folder in which all of the README was run."""
    folder = tmp_path_factory.mktemp("reader")
    lay_out(folder)
    run_page("README.md", folder)
    return folder


def test_the_readme_runs_and_leaves_what_it_says(after_readme):
    runs = after_readme / "runs"
    promised = {line.split()[0].rstrip("/") for line in plain(read("README.md"), "config.yaml ") if line[:1].isalpha()}
    assert promised == {"config.yaml", "log.txt", "metrics.jsonl", "checkpoints", "results"}
    for name in ("mshrnet_w48x2_coco_384x288", "hrnet_w32_coco_256x192_udp", "finetune_own"):
        assert {path.name for path in (runs / name).iterdir()} == promised | {"tensorboard"}
    assert "resumed from step_" in (runs / "mshrnet_w48x2_coco_384x288" / "log.txt").read_text()
    assert "re-initialised: final_layer.weight, final_layer.bias; " in (runs / "finetune_own" / "log.txt").read_text()
    assert "left_hand" in (runs / "finetune_own" / "config.yaml").read_text()
    assert {"person_pose.jpg", "person.json"} == {path.name for path in (after_readme / "predictions").iterdir()}
    assert (after_readme / "export" / "deploy.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES[1:])
def test_a_page_runs(page, after_readme, tmp_path):
    folder = tmp_path / "reader"
    shutil.copytree(after_readme, folder)
    if "pose_hrnet_w32" in read(page):
        publish_weights(folder / "pose_hrnet_w32_256x192.pth")
    run_page(page, folder)


# What the pages say


def leaves(model: type[Section], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, field in model.model_fields.items():
        default = field.default
        if isinstance(default, Section):
            yield from leaves(type(default), f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", "required" if field.is_required() else default


def test_the_key_table_is_the_configuration():
    documented = {}
    for keys, default, meaning in table("docs/training.md", "key"):
        for key in re.findall(r"`([^`]+)`", keys):
            assert key not in documented and meaning
            documented[key] = "required" if default == "required" else yaml.safe_load(default.strip("`"))
    expected = dict(leaves(Config))
    expected.update(leaves(Source, "data.train."))
    expected.update(leaves(SkeletonConfig, "data.skeleton."))
    assert documented == json.loads(json.dumps(expected))


def test_every_choice_of_a_key_is_named():
    from msposenet.codecs import gaussian, offset
    from msposenet.skeletons import SKELETONS

    text = {key: meaning for key, _, meaning in table("docs/training.md", "key")}
    for key, choices in {
        "`data.skeleton`": SKELETONS,
        "`codec.centre`": gaussian.CENTRES,
        "`codec.decoder`": gaussian.DECODERS + offset.DECODERS,
    }.items():
        assert [choice for choice in choices if f"`{choice}`" not in text[key]] == []


def test_the_exit_codes_are_those_of_the_errors():
    documented = {int(code) for code, _ in table("docs/training.md", "code")}
    errors = [getattr(msposenet.errors, name) for name in dir(msposenet.errors) if name.endswith(("Error", "ated"))]
    assert {error.exit_code for error in errors} | {0, 130} == documented


def test_the_zoo_table_is_what_summary_counts():
    rows = table("docs/models.md", "name")
    assert [row[0].strip("`") for row in rows] == list_models()
    for name, params, small, large in rows:
        net = get_model(name.strip("`"))
        counts = [summarise(net, name, size) for size in ((256, 192), (384, 288))]
        found = [counts[0].params / 1e6, *(count.multiply_adds / GIBI for count in counts)]
        assert [f"{value:.2f}" for value in found] == [params, small, large], name


def test_the_construction_table_is_what_summary_counts():
    for options, _, params, multiply_adds in table("docs/models.md", "options"):
        chosen = dict(yaml.safe_load("{" + options.strip("`") + "}")) if options != "(none)" else {}
        count = summarise(get_model("mshrnet_w48x2", **chosen), "", (384, 288))
        assert [f"{count.params / 1e6:.2f}", f"{count.multiply_adds / GIBI:.2f}"] == [params, multiply_adds], options


def test_the_deployment_table_is_deploy_json():
    documented = [key for keys, _ in table("docs/export.md", "key") for key in re.findall(r"`([^`]+)`", keys)]
    assert documented == list(Deployment.model_fields)


def test_the_files_shown_are_read(tmp_path):
    annotations, detections = (json.loads(block.text) for block in blocks("docs/data.md", "json"))
    for name, content in (("a.json", annotations), ("d.json", detections)):
        (tmp_path / name).write_text(json.dumps(content))
    records, _ = read_coco(tmp_path / "a.json", tmp_path)
    assert records.skeleton.flip_pairs == (("left_hand", "right_hand"),) and len(records.skeleton.limbs) == 3
    assert len(read_detections(tmp_path / "d.json", records.image_ids)) == 1
    results, people = (json.loads(block.text) for block in blocks("docs/evaluation.md", "json"))
    check_results(results, 1)
    assert set(people["people"][0]) == {"bbox", "score", "keypoints"}


@pytest.mark.parametrize("block", [block for page in PAGES for block in blocks(page, "yaml")], ids=str)
def test_configurations_shown_are_accepted(block):
    config = build_config(yaml.safe_load(block.text), block.page)
    sanity_check(config, config.fixed_skeleton() or COCO_17)


def test_the_map_names_every_module_and_upper_layers_are_never_imported_by_lower_ones():
    lines = plain(read("README.md"), "msposenet/\n")[1:]
    layers = [re.match(r"\s+((?:[\w.]+(?:/|\.py) ?)+)", line)[1].split() for line in lines]
    depth = {name.rstrip("/").replace(".py", ""): place for place, names in enumerate(layers) for name in names}
    package = PROJECT / "msposenet"
    assert set(lines[0].split("verb:")[1].split()) == set(VERBS)
    there = {path.stem for path in package.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert there - {"__init__", "__main__"} == set(depth) - {"formats"}
    same = depth["losses"]  # the files below the folders stand side by side
    for path in package.rglob("*.py"):
        place = min(depth.get(path.relative_to(package).parts[0].replace(".py", ""), -1), same)
        for node in ast.parse(path.read_text()).body:  # what is imported inside a function is a verb's late import
            module = node.module if isinstance(node, ast.ImportFrom) else ""
            if module.startswith("msposenet.") and place >= 0:
                assert min(depth[module.split(".")[1]], same) >= place, f"{path} imports {module}"


@pytest.mark.parametrize("page", PAGES)
def test_no_command_hides_in_a_block_that_is_not_run(page):
    languages = set(re.findall(r"^```(\w+)$", read(page), re.MULTILINE))
    assert languages <= {"bash", "python", "yaml", "json"}
    for block in blocks(page, ""):
        assert not re.search(r"^(?:\$ *)?(?:msposenet|scripts|python\d?|pip) ", block.text, re.MULTILINE)


@pytest.mark.parametrize("page", [*PAGES, *(f"configs/{name}" for name in CONFIGS)])
def test_nothing_is_left_to_be_filled_in(page):
    assert not re.search(r"@[A-Z]+@|TODO|TBD|FIXME", read(page))


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", read(page)):
        assert (PROJECT / page).parent.joinpath(target).exists(), f"{page} links to {target}, which is missing"


@pytest.mark.parametrize("page", [*PAGES, *(f"configs/{name}" for name in CONFIGS)])
def test_verbs_and_options_named_in_passing_exist(page):
    spoken = re.findall(r"`(msposenet [^`]+)`", read(page)) + re.findall(
        r"^#   (msposenet .*)$", read(page), re.MULTILINE
    )
    for command in spoken:
        _, verb, *words = shlex.split(command)
        known = {option for parameter in VERBS[verb].params for option in parameter.opts + parameter.secondary_opts}
        assert {word for word in words if word.startswith("--")} <= known, command


@pytest.mark.parametrize("page", [*PAGES, *(f"configs/{name}" for name in CONFIGS)])
def test_no_place_of_one_machine_is_named(page):
    assert re.findall(r"https?://|(?<![\w.)])/(?:home|root|work|tmp|opt|usr|mnt)\b", read(page)) == []


def test_the_readme_stays_short():
    assert len(read("README.md").splitlines()) <= 150


def test_installation_names_the_pins_of_setup_cfg():
    setup = configparser.ConfigParser()
    setup.read(PROJECT / "setup.cfg")
    extras = setup["options.extras_require"]
    pins = dict(
        re.findall(r"^([\w-]+)==([\w.]+)", "\n".join([setup["options"]["install_requires"], *extras.values()]), re.M)
    )
    page = read("docs/install.md")
    for extra in re.findall(r'pip install (?:-e )?"\.\[([\w,]+)\]"', read("README.md") + page):
        assert set(extra.split(",")) <= set(extras)
    for name, version in re.findall(r"([\w-]+)==([\w.]+)", page):
        assert pins[name] == version, name
    python = [f"3.{minor}" for minor in range(9, 13)]
    for name, *versions in table("docs/install.md", "| 3.9"):
        for minor, version in zip(python, versions):
            lines = re.findall(
                rf"^{name.split(',')[0]}==(\S+?)(?:; python_version (\S+) \"(\S+)\")?$",
                setup["options"]["install_requires"],
                re.M,
            )
            allowed = [pin for pin, sign, bound in lines if not sign or holds(minor, sign, bound)]
            assert version in allowed if version else not allowed, (name, minor)


def holds(minor: str, sign: str, bound: str) -> bool:
    found, wanted = (int(text.split(".")[1]) for text in (minor, bound))
    return {"<": found < wanted, ">=": found >= wanted, "==": found == wanted}[sign]


# Example configurations


@pytest.mark.parametrize("name", CONFIGS)
def test_an_example_configuration_can_be_trained(name):
    path = PROJECT / "configs" / name
    config = load_config(path)
    sanity_check(config, config.fixed_skeleton() or COCO_17)
    header = path.read_text().split("\ndata:")[0]
    assert re.search(rf"^#   msposenet train configs/{re.escape(name)}( |$)", header, re.MULTILINE)
    assert "Hardware" in header and config.data.train and config.data.val


def test_the_skeleton_in_the_template_can_be_switched_on(tmp_path):
    text = (PROJECT / "configs" / "finetune_own.yaml").read_text()
    text = text.replace("  skeleton: auto\n", "")
    text, count = re.subn(r"^  # (skeleton:|  (?:joints|flip_pairs|limbs|sigmas):)", r"  \1", text, flags=re.MULTILINE)
    assert count == 5
    (tmp_path / "own.yaml").write_text(text)
    config = load_config(tmp_path / "own.yaml")
    sanity_check(config, config.fixed_skeleton())
    assert config.fixed_skeleton().flip_pairs == (("wing_1", "wing_2"),)
