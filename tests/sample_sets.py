"""The real samples of six data sets, in the forms they are published in, as one configuration."""

from __future__ import annotations

from shared_data import sample


def sources() -> dict[str, dict]:
    """Sections of data.train and data.val by name; skips the test where the samples are absent."""

    def section(form: str, annotations: str, images: str, **options) -> dict:
        return {"format": form, "annotations": str(sample(annotations)), "images": str(sample(images)), **options}

    lsp = ("lsp", "lsp_extended/joints.mat", "lsp_extended/images")
    return {
        "coco": section("coco", "coco/annotations/person_keypoints_val2017.json", "coco/images/val2017"),
        "mpii": section(
            "mpii", "mpii/valid.json", "mpii/images", head_sizes=str(sample("mpii/valid_head_sizes.json")),
            joint_weights={"left_hip": 0.5, "right_hip": 0.5},
        ),
        "aic": section("aic", "aic/keypoint_annotations_native.json", "aic/images", weight=4.0),
        "aic as coco": section("coco", "aic/test_aic.json", "aic/images"),
        "crowdpose": section("crowdpose", "crowdpose/test_crowdpose.json", "crowdpose/images", min_joints=3),
        "posetrack": section("posetrack", "posetrack18/annotations/val", "posetrack18/images"),
        "lsp": section(*lsp, pictures=[1, 40], joints={"pelvis": ["left_hip", "right_hip"]}, weight=0.5),
    }  # fmt: skip


def merged(**changes) -> dict:
    """Content of a configuration that trains on all of them and scores each by its own metric."""
    named = [{"name": name, **section} for name, section in sources().items()]
    val = [{**section, "pictures": [2401, 2420]} if section["name"] == "lsp" else section for section in named]
    content: dict = {
        "data": {"train": named, "val": val, "skeleton": "union21", "input": [64, 64], "workers": 2},
        "model": {"name": "mshrnet_w8x2_small"},
        "codec": {"radius_factor": 0.15, "kernel": 1},
        "train": {"epochs": 1, "batch_size": 16, "lr_drops": [1], "log_every": 5, "validate_every": 0},
        "test": {"batch_size": 32},
    }
    for section, values in changes.items():
        content[section] = {**content.get(section, {}), **values}
    return content
