"""Placeholder header."""

from configs.schema import Config, Input, Loss, Model, Optimizer, Phase


def get_config() -> Config:
    return Config(
        global_batch=32,
        # Scans are 8x8 pixels and fill their frame: no mirrored digits, no crop that cuts a stroke off.
        input=Input(image_size=32, crop_area=(0.8, 1.0), flip=False, crop_fraction=1.0),
        model=Model(backbone="mobilenetv2", width=0.5, weights="none", batch_norm_momentum=0.9),
        optimizer=Optimizer(name="adamw", peak_lr=3e-3, weight_decay=0.05),
        loss=Loss(label_smoothing=0.1),
        phases=(Phase(epochs=25, warmup_epochs=2),),
        evaluate_every_epochs=5,
    )
