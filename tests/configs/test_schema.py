"""Wrong configs: each gives one line that names the field and, where there is one, the nearest valid name."""

from __future__ import annotations

import pathlib

import pytest

from configs import loading, schema

DIGITS = "configs/digits_mobilenetv2.py"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.peaklr=1", "no field optimizer.peaklr; did you mean optimizer.peak_lr?"),
        ("optimiser.peak_lr=1", "no field optimiser.peak_lr; did you mean optimizer?"),
        ("phases[0].epoch=1", "no field phases[0].epoch; did you mean phases[0].epochs?"),
        ("phases[7].epochs=1", "phases has no item [7]"),
        ("optimizer=1", "optimizer is a group; set one of name, peak_lr"),
        ("seed", "expected --config.seed=VALUE"),
        ("global_batch=many", "global_batch=many: invalid literal for int()"),
        ("input.flip=maybe", "input.flip=maybe"),
        ("global_batch=0", "config.global_batch=0: expected at least 1"),
        ("input.crop_area=(0.9,0.1)", "config.input.crop_area=(0.9, 0.1): expected 0 < smallest <= largest <= 1"),
        ("input.crop_area=0.9", "config.input.crop_area=(0.9,): expected 2 values, got 1"),
        ("input.crop_area=('a',1)", "config.input.crop_area[0]='a': expected float, got str"),
        ("model.backbone=mobilenetv3", "config.model.backbone='mobilenetv3': expected one of mobilenetv2"),
        ("model.dropout=1", "config.model.dropout=1.0: expected [0, 1)"),
        ("loss.label_smoothing=-0.1", "config.loss.label_smoothing=-0.1: expected [0, 1)"),
        ("precision=float16", "config.precision='float16': expected one of float32, mixed_bfloat16"),
        ("phases[0].epochs=0", "config.phases[0].epochs=0.0: expected (0, inf)"),
        ("phases[0].epochs=inf", "config.phases[0].epochs=inf: expected (0, inf)"),
        ("seed=-1", "config.seed=-1: expected [0, 4294967295]"),
        ("seed=None", "config.seed=None: expected int, got NoneType"),
        ("validate=1", "the config has no field validate"),
        ("phases[0].warmup_epochs=999", "config.phases[0].warmup_epochs=999.0: expected [0, "),
        ("augment.policy=autoaugment", "config.augment.policy='autoaugment': expected one of none, randaugment"),
        ("augment.num_ops=2", "config.augment.num_ops=2: policy='none' has none; leave it None"),
        ("augment.magnitude=9", "config.augment.magnitude=9.0: policy='none' has none; leave it None"),
        ("augment.erasing=1.5", "config.augment.erasing=1.5: expected [0, 1]"),
        ("augment.mixup=-1", "config.augment.mixup=-1.0: expected [0, inf)"),
        ("augment.where=device", "config.augment.where='device': expected one of host, step"),
        ("augment.where=step", "config.augment.where='step': policy='none' has no form for the step; use host"),
        ("model.width=1.4 model.backbone=resnet50", "config.model.width=1.4: resnet50 has one width; leave it None"),
        ("model.head=deep", "config.model.head='deep': expected one of linear, mlp"),
        ("model.drop_path=0.2", "config.model.drop_path=0.2: mobilenetv2 has no such layers; leave it None"),
        ("optimizer.name=adam optimizer.weight_decay=0.1", "adam has none; adamw is Adam with decoupled decay"),
        ("optimizer.name=lamb optimizer.momentum=0.9", "config.optimizer.momentum=0.9: lamb has none; leave it None"),
        ("optimizer.layer_decay=0", "config.optimizer.layer_decay=0.0: expected (0, 1]"),
        ("optimizer.clip_norm=0", "config.optimizer.clip_norm=0.0: expected (0, inf)"),
        ("optimizer.accumulation=3", "accumulation=3: global_batch=32 does not divide into so many equal parts"),
        ("optimizer.ema=1", "config.optimizer.ema=1.0: expected (0, 1)"),
        ("loss.class_weights=given", "loss.given_weights=(): class_weights='given'; give one weight per class"),
        ("loss.given_weights=(1.0,2.0)", "class_weights='none'; give one weight per class with class_weights='given'"),
        ("loss.kind=logit_adjusted loss.class_weights=balanced", "kind='logit_adjusted' balances the classes too"),
        ("loss.kind=logit_adjusted input.sampling=sqrt", "loss.kind='logit_adjusted' balances them too"),
        ("loss.focal_gamma=2", "config.loss.focal_gamma=2.0: kind='cross_entropy' has none; leave it None"),
        ("loss.logit_tau=1", "config.loss.logit_tau=1.0: kind='cross_entropy' has none; leave it None"),
        ("loss.effective_beta=0.9", "config.loss.effective_beta=0.9: class_weights='none' has none; leave it None"),
        ("phases[0].steps=10", "config.phases[0]: epochs=14 and steps=10: expected exactly one of the two"),
        ("phases[0].epochs=None", "config.phases[0]: epochs=None and steps=None: expected exactly one of the two"),
        ("phases[0].trainable=last:0", "trainable='last:0': expected all, head, last:N or from:LAYER"),
        ("phases[0].cached_features=true", "cached_features=True: trainable='all' changes the features; use head"),
        ("phases[0].schedule=linear", "schedule='linear': expected one of cosine, exponential, step, constant"),
        ("phases[0].decay_rate=0.9", "config.phases[0].decay_rate=0.9: schedule='cosine' has none; leave it None"),
        ("phases[0].patience=3", "config.phases[0].patience=3: schedule='cosine' has none; leave it None"),
        ("phases[0].schedule=plateau validation_split=none", "validation_split='none' leaves it nothing to follow"),
        (
            "phases[0].trainable=head phases[0].cached_features=true input.sampling=sqrt",
            "shows some images more often than once an epoch",
        ),
        (
            "phases[0].trainable=head phases[0].cached_features=true augment.mixup=0.2",
            "config.augment: no phase sees images, all have cached_features=True; leave it out",
        ),
        ("monitor.metric=auc", "config.monitor.metric='auc': expected one of accuracy, loss"),
        (
            "monitor.patience=3 validation_split=none",
            "config.monitor: validation_split='none' gives it nothing to follow",
        ),
        ("divergence.spike_factor=1", "config.divergence.spike_factor=1.0: expected (1, inf)"),
        ("divergence.rollback_lr_factor=0.1", "rollback=False never uses it; leave it None"),
        (
            "divergence.rollback=true divergence.rollback_lr_factor=1",
            "config.divergence.rollback_lr_factor=1.0: expected (0, 1)",
        ),
        ("logs.profile_steps=(5,3)", "config.logs.profile_steps=(5, 3): expected () or (first, last)"),
        ("logs.profile_steps=(3,5) logs.tensorboard=false", "logs.tensorboard=False has nowhere to show them"),
        ("checkpoints_kept=0", "config.checkpoints_kept=0: expected at least 1"),
        ("steps_per_call=0", "config.steps_per_call=0: expected at least 1"),
        ("phases[0].trainable=tail", "config.phases[0].trainable='tail': expected all, head, last:N or from:LAYER"),
    ],
)
def test_a_wrong_override_is_one_line(override: str, message: str) -> None:
    with pytest.raises(schema.ConfigError) as caught:
        loading.read(DIGITS, [f"--config.{one}" for one in override.split(" ")])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return Config(global_bach=3)", "Config has no field global_bach; did you mean global_batch?"),
        ("return Config(input=Input(imagesize=3))", "Input has no field imagesize; did you mean image_size?"),
        ("c = Config(); c.input.flop = True; return c", "Input has no field flop; did you mean flip?"),
        ("return Config(seed='1')", "config.seed='1': expected int, got str"),
        ("return Config(seed=True)", "config.seed=True: expected int, got bool"),
        ("return Config(phases=())", "config.phases=(): expected at least one"),
        ("return Config(phases=[])", "config.phases=[]: expected a tuple, got list"),
        ("return Config(model=Model(width=0.5, backbone='efficientnet_b0'))", "has one width; leave it None"),
        ("return Config(optimizer=Optimizer(name='adamw', momentum=0.9))", "adamw has none; leave it None"),
        ("return Config(augment=Augment(policy='randaugment', num_ops=0))", "augment.num_ops=0: expected at least 1"),
        (
            "return Config(augment=Augment(policy='randaugment', magnitude=11.0))",
            "augment.magnitude=11.0: expected [0, 10]",
        ),
        (
            "return Config(augment=Augment(policy='trivialaugment', where='step', cutmix=1.0))",
            "augment.cutmix=1.0: its labels need where='host'",
        ),
        ("return Config(input=Model())", "expected Input, got Model"),
        ("return Config(phases=(Model(),))", "config.phases[0]=Model("),
        ("return Config(seed=foo)", "name 'foo' is not defined"),
        ("import nothere; return Config()", "No module named 'nothere'"),
        ("return 3", "get_config() returned int, expected configs.schema.Config"),
        ("return Config(", "line 2"),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path: pathlib.Path, body: str, message: str) -> None:
    path = tmp_path / "experiment.py"
    path.write_text(f"from configs.schema import *\ndef get_config(): {body}\n")
    with pytest.raises(schema.ConfigError) as caught:
        loading.read(str(path))
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_answered_with_the_nearest() -> None:
    with pytest.raises(schema.ConfigError, match=r"no such file; did you mean configs/digits_mobilenetv2\.py\?"):
        loading.read("configs/digit_mobilenet.py")


def test_overrides_reach_every_kind_of_field() -> None:
    config = loading.read(
        DIGITS,
        [
            "--config.seed=7",
            "--config.optimizer.peak_lr=3e-4",
            "--config.input.flip=true",
            "--config.input.crop_area=(0.5,0.75)",
            "--config.model.width=0.75",
            "--config.phases[0].epochs=2.5",
            "--config.max_steps=9",
            "--config.augment.policy=randaugment",
            "--config.augment.num_ops=3",
            "--config.augment.magnitude=5.5",
        ],
    )
    assert loading.read(DIGITS, ["--config.model.width=None"]).model.width is None
    for last, width in (("None", None), ("0.75", 0.75)):
        given = [f"--config.model.width={value}" for value in ("0.5", "None", "0.35", last)]
        assert loading.read(DIGITS, given).model.width == width
    assert (config.seed, config.optimizer.peak_lr, config.input.flip) == (7, 3e-4, True)
    assert (config.input.crop_area, config.model.width, config.phases[0].epochs) == ((0.5, 0.75), 0.75, 2.5)
    assert config.max_steps == 9
    assert (config.augment.policy, config.augment.num_ops, config.augment.magnitude) == ("randaugment", 3, 5.5)
    assert loading.read(DIGITS).seed != 7  # the file's own value is untouched
