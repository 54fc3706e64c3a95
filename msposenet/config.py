"""The configuration of a run: frozen, complete and validated; one YAML file an experiment.

Unknown keys are refused with the nearest known one. Relative paths in a file are taken from the folder the program is
started in. `Config.dump` gives the complete configuration, so a run directory says everything about its run.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Optional, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from msposenet.errors import ConfigError
from msposenet.overrides import override
from msposenet.skeletons import SKELETONS, Skeleton, get_skeleton
from msposenet.storage import file_name

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """Base of all sections: frozen, no unknown keys, finite numbers only."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SkeletonConfig(Section):
    """A keypoint set of one's own, where no built-in one and not the annotation file's is wanted."""

    name: str = "custom"
    joints: tuple[str, ...]
    flip_pairs: tuple[tuple[str, str], ...] = ()
    sigmas: Optional[tuple[Positive, ...]] = None  # OKS sigmas; 0.05 for every joint when left out
    limbs: tuple[tuple[str, str], ...] = ()
    upper: tuple[str, ...] = ()  # joints of the upper body; half-body crops need them

    @classmethod
    def of(cls, skeleton: Skeleton) -> SkeletonConfig:
        """The section that builds `skeleton`."""
        return cls(
            name=skeleton.name,
            joints=skeleton.joints,
            flip_pairs=skeleton.flip_pairs,
            sigmas=skeleton.sigmas,
            limbs=skeleton.limbs,
            upper=skeleton.upper,
        )

    def build(self) -> Skeleton:
        sigmas = self.sigmas or (0.05,) * len(self.joints)
        return Skeleton(self.name, self.joints, self.flip_pairs, sigmas, self.limbs, self.upper)


class Source(Section):
    """One annotated set, and how it takes part."""

    name: Optional[str] = None  # what reports and scores call it; its format and file when left out
    format: Literal["coco", "mpii", "aic", "crowdpose", "posetrack", "lsp"] = "coco"
    annotations: Path  # a file; for PoseTrack also a folder of one file a video
    images: Path  # folder that the annotations' file names are relative to
    pictures: Optional[tuple[Count, Count]] = None  # first and last picture used, counted from 1 in the file's order
    # Joint wanted: the set's own, two for their midpoint, null for none.
    joints: dict[str, Union[str, tuple[str, str], None]] = {}
    joint_weights: dict[str, Annotated[float, Field(ge=0)]] = {}  # by joint wanted, multiplies loss.joint_weights
    weight: Annotated[float, Field(gt=0, le=100)] = 1.0  # an epoch takes this many samples per person of the set
    boxes: Literal["file", "joints"] = "file"  # joints: around the labelled joints, with `box_margin`
    box_margin: Annotated[float, Field(ge=0, le=10)] = 0.15  # of the extent's width and height
    min_joints: Count = 1  # labelled joints, after mapping, that a person must have to train
    min_size: Annotated[float, Field(ge=0)] = 0.0  # px: persons whose box has a shorter long side do not train
    detections: Optional[Path] = None  # boxes of a detector in COCO's result form, for test.boxes: detections
    head_sizes: Optional[Path] = None  # MPII: head sizes for PCKh, where the annotations have none
    # The format's own when left out.
    metric: Optional[Literal["coco", "mpii", "aic", "crowdpose", "posetrack", "pck"]] = None

    @model_validator(mode="after")
    def _check(self) -> Source:
        if self.pictures and self.pictures[0] > self.pictures[1]:
            raise ValueError(f"pictures runs from {self.pictures[0]} to {self.pictures[1]}; name the first one first")
        if self.metric not in (None, "coco", "pck", self.format):
            raise ValueError(
                f"metric {self.metric} scores sets of format {self.metric}, this one is {self.format}; set metric: "
                "coco, or leave it out"
            )
        return self

    @property
    def title(self) -> str:
        """What reports and scores call the set."""
        return self.name or f"{self.format}:{self.annotations.stem}"


def _as_list(value: Any) -> Any:
    """One set may be written without the list."""
    return () if value is None else (value,) if isinstance(value, (Mapping, Source)) else value


Sources = Annotated[tuple[Source, ...], BeforeValidator(_as_list)]


class DataConfig(Section):
    """What is trained and validated on, and how it is read."""

    train: Sources = ()
    val: Sources = ()  # each is scored by itself, with its own metric
    skeleton: Union[str, SkeletonConfig] = "auto"  # auto: the training set's own; union21 where sets differ
    pack: Optional[Path] = None  # folder that `msposenet pack` made of data.train, read in place of the pictures
    share_decode: bool = False  # the persons of a picture follow each other, so that it is decoded once
    reduced_decode: bool = False  # pictures whose person is more than twice the crop are decoded at a half to an eighth
    input: tuple[Count, Count] = (256, 192)  # height, width of the crop in px, multiples of 32
    workers: Annotated[int, Field(ge=0, le=256)] = 2  # processes that make samples; 0: the training process itself
    worker_timeout: Positive = 120.0  # seconds without a batch after which a worker counts as hung
    max_bad_fraction: Share = (
        0.001  # of a set that may be skipped as damaged (never more than 100 items at the default)
    )
    enlarge: Positive = 1.25  # margin given to every box

    @model_validator(mode="after")
    def _check(self) -> DataConfig:
        if self.input[0] % 32 or self.input[1] % 32:
            raise ValueError(f"input must be multiples of 32, found {list(self.input)}")
        if isinstance(self.skeleton, str) and self.skeleton not in ("auto", *SKELETONS):
            raise ValueError(f"unknown skeleton {self.skeleton!r}; known: auto, {', '.join(SKELETONS)}")
        if self.pack is not None and (self.share_decode or self.reduced_decode):
            raise ValueError("share_decode and reduced_decode are about picture files; leave them out with a pack")
        for part, sources in (("train", self.train), ("val", self.val)):
            titles = [source.title for source in sources]
            files = [file_name(title) for title in titles]  # results are written under these
            repeated = [title for title, file in zip(titles, files) if files.count(file) > 1]
            if repeated:
                raise ValueError(f"{part} has sets called {repeated}; give each a `name` of its own")
        return self

    @property
    def input_wh(self) -> tuple[int, int]:
        return (self.input[1], self.input[0])


class AugmentationConfig(Section):
    """Random changes of a training crop (HRNet's program, in its order: half body, scale, rotation, flip)."""

    half_body: Share = 0.3  # probability, for persons with more than `half_body_joints` labelled joints
    half_body_joints: Annotated[int, Field(ge=0)] = 8
    scale: Annotated[float, Field(ge=0, lt=1)] = 0.35  # size x clip(1 + scale N(0, 1), 1 - scale, 1 + scale)
    rotation: Annotated[float, Field(ge=0, le=180)] = 45.0  # degrees: clip(rotation N(0, 1), +-2 rotation)
    rotation_probability: Share = 0.6
    flip: Share = 0.5  # probability


class ModelConfig(Section):
    """The network."""

    name: str = "mshrnet_w48x2"
    head: Optional[Literal["heatmap", "offset"]] = None  # the model's own when left out
    options: dict[str, Any] = {}  # construction options of HRNetSpec: entry, repeat_stage2, aggregate, ...
    initialisation: Literal["he", "normal"] = "he"


class CodecConfig(Section):
    """How joints become maps and maps joints."""

    convention: Literal["unbiased", "standard"] = "unbiased"
    sigma: Optional[Positive] = None  # of the Gaussian in heatmap px; 2 for a map 64 px high, in proportion
    centre: Optional[Literal["rounded", "unrounded", "dark"]] = None  # unrounded when unbiased, rounded when standard
    radius_factor: Positive = 0.0546875  # radius of the class disk / map height
    decoder: Optional[Literal["quarter", "dark", "udp", "argmax", "peak", "vote"]] = None
    kernel: Optional[Count] = None  # of the decoder's blur in heatmap px, odd


class LossConfig(Section):
    """Losses of a stage and the weights of stages and joints."""

    heatmap: Literal["mse", "ohkm"] = "mse"
    ohkm_top: Count = 8
    offset: Literal["mse", "smooth_l1"] = "mse"
    offset_weight: Positive = 1.0
    stage_weights: Optional[tuple[Annotated[float, Field(ge=0)], ...]] = None  # 1 for every stage when left out
    joint_weights: dict[str, Annotated[float, Field(ge=0)]] = {}  # by joint name; 1 when left out


class TrainConfig(Section):
    """Optimiser, schedule and bookkeeping of the loop."""

    epochs: Count = 150
    batch_size: Count = 32  # global: over all devices and ranks
    base_lr: Positive = 1e-3  # for the global batch
    lr_drops: tuple[Count, ...] = (110, 140)  # epochs (counted from 1) after which the rate is multiplied by lr_factor
    lr_factor: Positive = 0.1
    warmup_steps: Annotated[int, Field(ge=0)] = 0  # linear, from lr / warmup_steps
    clip_norm: Optional[Positive] = None  # largest norm of the gradient over all parameters
    amp: bool = False  # float16 with dynamic loss scaling; needs a GPU
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    devices: tuple[str, ...] = ("auto",)  # auto: all GPUs, else the CPU; or cpu, gpu:0, gpu:1; cpu:0 cpu:1 for trials
    # How gradients are summed. auto: dist_sync (GPUs: dist_device_sync) in a launched job, else device.
    kvstore: Literal["auto", "local", "device", "nccl", "dist_sync", "dist_device_sync", "dist_async"] = "auto"
    compression: Optional[Positive] = None  # threshold of 2-bit gradient compression between workers; off when left out
    # Statistics of batch normalisation: of each device's part, of all parts of a process, or the running ones, kept.
    batch_norm: Literal["local", "sync", "frozen"] = "local"
    fingerprint_every: Count = 500  # steps after which workers compare their weights, besides before each checkpoint
    step_timeout: Positive = 300.0  # seconds without progress, or without a sign of life, after which a job ends
    start_timeout: Positive = 1800.0  # seconds until all processes of a job have come and read their data
    log_every: Count = 50  # steps
    validate_every: Annotated[int, Field(ge=0)] = 1  # epochs; 0: only after the last
    checkpoint_steps: Optional[Count] = None  # steps between checkpoints; once an epoch when left out
    keep: Count = 3  # checkpoints, besides the best


class TestConfig(Section):
    """How persons are found and scored (HRNet's protocol)."""

    __test__ = False  # not a pytest class

    boxes: str = "gt"  # gt; a detection file in COCO's result form; detections: each set's own
    min_box_score: float = 0.0
    flip: bool = True
    shift: Optional[bool] = None  # one-pixel shift of the mirrored map; on for heatmaps in the standard convention
    joint_score: Share = 0.2  # joints below do not enter a person's score
    oks_nms: Share = 0.9  # persons more alike than this are merged; 1 keeps all
    batch_size: Count = 32


class Config(Section):
    """A whole experiment."""

    data: DataConfig = DataConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    model: ModelConfig = ModelConfig()
    codec: CodecConfig = CodecConfig()
    loss: LossConfig = LossConfig()
    train: TrainConfig = TrainConfig()
    test: TestConfig = TestConfig()

    @model_validator(mode="after")
    def _check(self) -> Config:
        for source in self.data.val:
            if self.test.boxes == "detections" and source.detections is None:
                raise ValueError(f"{source.title}: test.boxes is detections, but the set names no `detections` file")
            pckh = source.format == "mpii" and source.metric in (None, "mpii")
            if pckh and source.head_sizes is None and source.annotations.suffix == ".json":
                raise ValueError(
                    f"{source.title}: PCKh wants head sizes, which MPII's JSON form has not; name a head_sizes file, "
                    "or set metric: coco"
                )
        return self

    def dump(self) -> str:
        """The complete configuration as YAML."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)

    def fixed_skeleton(self) -> Skeleton | None:
        """The skeleton that the configuration names; None where the data file names it."""
        if isinstance(self.data.skeleton, SkeletonConfig):
            return self.data.skeleton.build()
        return None if self.data.skeleton == "auto" else get_skeleton(self.data.skeleton)


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """The configuration in the YAML file `path`, changed by `overrides` like "train.base_lr=1e-4".

    Raises ConfigError naming file, key and value for anything that does not fit.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a configuration ({error}); name a YAML file") from None
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: is not YAML ({' '.join(str(error).split())})") from None
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: holds a {type(content).__name__}, not sections such as data: and train:")
    return build_config(override(content, overrides), str(path))


def build_config(content: Mapping[str, Any], source: str) -> Config:
    """A configuration from nested mappings; `source` names them in errors."""
    try:
        return Config.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"{source}: " + "; ".join(_explain(error))) from None
    except RecursionError:
        raise ConfigError(f"{source}: sections refer to themselves; write each value out") from None


def _explain(error: ValidationError) -> Iterator[str]:
    for item in error.errors():
        place = ".".join(str(part) for part in item["loc"]) or "configuration"
        if item["type"] == "extra_forbidden":
            known = _known_keys(item["loc"][:-1])
            near = difflib.get_close_matches(str(item["loc"][-1]), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            yield f"unknown key {place!r}; {hint}"
        else:
            message = item["msg"].replace("Value error, ", "")
            found = "" if item["type"] == "value_error" else f", found {str(item.get('input'))[:80]!r}"
            yield f"{place}: {message}{found}"


def _known_keys(location: tuple) -> list[str]:
    model: Any = Config
    for part in location:
        fields = getattr(model, "model_fields", {})
        if part not in fields:
            continue  # pydantic adds the name of a union's branch to the location
        model = _section_of(fields[part].annotation) or model
    return list(getattr(model, "model_fields", {}))


def _section_of(annotation: Any) -> Any:
    if get_origin(annotation) is None:
        return annotation if isinstance(annotation, type) and issubclass(annotation, Section) else None
    found = [_section_of(argument) for argument in get_args(annotation)]
    return next((section for section in found if section is not None), None)


__all__ = ["Config", "SkeletonConfig", "Source", "build_config", "load_config", "override"]
