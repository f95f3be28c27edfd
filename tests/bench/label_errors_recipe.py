"""A short fine-tuning that records its dynamics: what the benchmark of label errors trains."""

from configs.schema import Config, Input, Logs, Loss, Model, Optimizer, Phase


def get_config() -> Config:
    return Config(
        global_batch=64,
        input=Input(image_size=128, crop_area=(0.5, 1.0), crop_fraction=1.0),
        model=Model(backbone="mobilenetv2", weights="imagenet"),
        optimizer=Optimizer(name="adamw", peak_lr=1e-3, weight_decay=0.05),
        loss=Loss(label_smoothing=0.0),
        phases=(
            Phase(epochs=3, trainable="head", cached_features=True),
            # Few epochs: a label is learned by heart when it is seen often enough.
            Phase(epochs=6, trainable="from:block_6_expand", freeze_batch_norm=True, lr_scale=0.3, warmup_epochs=0.5),
        ),
        logs=Logs(tensorboard=False, dynamics=True),
    )
