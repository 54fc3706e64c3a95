"""Configurations: what is accepted, and how each mistake is named."""

from __future__ import annotations

import pytest
from people_set import tiny_config

from msposenet.config import Config, build_config, load_config, override
from msposenet.errors import ConfigError
from msposenet.models.build import build_codec, sanity_check, shifts
from msposenet.skeletons import COCO_17, Skeleton
from msposenet.training.schedule import learning_rate

MISTAKES = {
    "unknown key": ("train: {lr_drop: [3]}", "unknown key 'train.lr_drop'; did you mean 'lr_drops'?"),
    "unknown section": ("trian: {epochs: 3}", "unknown key 'trian'; did you mean 'train'?"),
    "unknown key of a source": (
        "data: {train: {anotations: x, annotations: a, images: b}}",
        "unknown key 'data.train.0.anotations'; did you mean 'annotations'?",
    ),
    "missing key": ("data: {train: {images: b}}", "data.train.0.annotations: Field required"),
    "a word for a number": ("train: {epochs: many}", "train.epochs"),
    "a list for a section": ("train: [1, 2]", "train: "),
    "negative rate": ("train: {base_lr: -1}", "train.base_lr: Input should be greater than 0"),
    "NaN": ("train: {base_lr: .nan}", "train.base_lr"),
    "infinity": ("loss: {offset_weight: .inf}", "loss.offset_weight"),
    "probability of 2": ("augmentation: {flip: 2}", "augmentation.flip"),
    "odd input": ("data: {input: [250, 192]}", "multiples of 32"),
    "unknown skeleton": ("data: {skeleton: coco18}", "unknown skeleton 'coco18'"),
    "unknown head": ("model: {head: maps}", "model.head"),
    "unknown convention": ("codec: {convention: udp}", "codec.convention"),
    "not YAML": ("train: {epochs: 3", "is not YAML"),
    "a list": ("- 1\n- 2", "holds a list"),
    "a Python object": ("train: !!python/object/apply:os.system ['true']", "is not YAML"),
    "a tab": ("train:\n\tepochs: 3", "is not YAML"),
}


@pytest.mark.parametrize(("text", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_named(tmp_path, text, message):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert message in str(caught.value) and str(path) in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", None], ids=["binary", "missing"])
def test_files_that_cannot_be_read_are_named(tmp_path, content):
    path = tmp_path / "run.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"run\.yaml"):
        load_config(path)


def test_an_empty_file_is_all_defaults_and_a_dump_reads_back(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("")
    assert load_config(path) == Config()
    changed = tiny_config()
    path.write_text(changed.dump())
    assert load_config(path) == changed


def test_overrides(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("train: {epochs: 3}")
    config = load_config(path, ["train.base_lr=1e-4", "data.input=[384, 288]", "model.options.entry=hires"])
    assert config.train.base_lr == 1e-4 and config.train.epochs == 3
    assert config.data.input_wh == (288, 384) and config.model.options == {"entry": "hires"}
    for text, message in (
        ("train.base_lr", "write section.key=value"),
        ("train.epochs.x=1", "epochs is a value, not a section"),
        ("train.epochs=[", "not YAML"),
        ("train.epoch=4", "did you mean 'epochs'"),
    ):
        with pytest.raises(ConfigError) as caught:
            load_config(path, [text])
        assert message in str(caught.value)


def test_the_configuration_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Config().train.epochs = 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codec": {"decoder": "quarter"}}, "unknown decoder 'quarter'"),
        ({"codec": {"kernel": 4}}, "must be odd"),
        ({"test": {"shift": True}}, "test.shift belongs to heatmaps"),
        ({"loss": {"joint_weights": {"tail": 2}}}, "no joint 'tail'"),
        ({"loss": {"heatmap": "ohkm"}}, "Set model.head: heatmap"),
        ({"model": {"head": "heatmap"}, "loss": {"heatmap": "ohkm", "ohkm_top": 18}}, "ohkm_top is 18"),
        ({"model": {"name": "hrnet_w31x"}}, "unknown model 'hrnet_w31x'"),
    ],
)
def test_contradictions_are_refused_before_anything_runs(changes, message):
    base = {"model": {"name": "mshrnet_w8x2_small"}}
    with pytest.raises(ConfigError) as caught:
        sanity_check(build_config({**base, **changes}, "test"), COCO_17)
    assert message in str(caught.value)


def test_half_bodies_need_to_know_the_upper_body():
    joints = tuple(f"point_{i}" for i in range(10))
    with pytest.raises(ConfigError, match="upper"):
        sanity_check(Config(), Skeleton("points", joints, (), (0.1,) * 10))


def test_defaults_follow_head_and_convention():
    def codec(name, **settings):
        return build_codec(build_config({"model": {"name": name}, "codec": settings}, "test"))

    assert codec("mshrnet_w48x2").decoder == "peak"
    unbiased, standard = codec("hrnet_w32"), codec("hrnet_w32", convention="standard")
    assert (unbiased.centre, unbiased.decoder, unbiased.sigma) == ("unrounded", "udp", 2.0)
    assert (standard.centre, standard.decoder) == ("rounded", "quarter")
    larger = build_codec(build_config({"model": {"name": "hrnet_w32"}, "data": {"input": [384, 288]}}, "test"))
    assert larger.sigma == 3.0 and larger.heatmap_wh == (72, 96)
    assert shifts(build_config({"model": {"name": "hrnet_w32"}, "codec": {"convention": "standard"}}, "test"))
    assert not shifts(build_config({"model": {"name": "hrnet_w32"}}, "test"))


def test_the_reports_schedule():
    config = Config().train
    rates = [learning_rate(epoch * 100, 100, config) for epoch in (0, 109, 110, 139, 140, 149)]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5])
    warm = config.model_copy(update={"warmup_steps": 10})
    assert [learning_rate(step, 100, warm) for step in (0, 4, 9, 10)] == pytest.approx([1e-4, 5e-4, 1e-3, 1e-3])


def test_one_set_answers_to_its_number_and_without_it():
    for one in ({"annotations": "a", "images": "b"}, [{"annotations": "a", "images": "b"}]):
        for key in ("data.train.weight", "data.train.0.weight"):
            config = build_config(override({"data": {"train": one}}, [f"{key}=2"]), "test")
            assert config.data.train[0].weight == 2


@pytest.mark.parametrize("number", ["2", "\u00b2", "x", "-1"])
def test_a_number_that_the_list_has_not_is_named(number):
    sets = [{"annotations": name, "images": "i"} for name in "ab"]
    with pytest.raises(ConfigError, match="stands where a list has 2 entries; give its number, from 0"):
        override({"data": {"train": sets}}, [f"data.train.{number}.weight=2"])
