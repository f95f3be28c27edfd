"""The demo: scikit-learn's 1,797 handwritten digits, 10 classes, a small MobileNetV2 from scratch.

Data:     python infra/demo/write_digits.py digits && python -m preprocess --input=digits --output=data --name=digits
Command:  python -m trainer train --config=configs/digits_mobilenetv2.py --data=data/digits/1.0.0 --workdir=runs/digits
Hardware: two CPU cores, no accelerator
Time:     about 2 min 30 s to train; the whole of `make demo` 2 min 45 s after installation
Result:   98.32 % on the 179 test images (3 wrong), 98.89 % on validation, with TF_NUM_INTEROP_THREADS=1 as in the demo;
          without averaged weights 97.77 and 98.33 %
"""

from configs.schema import Config, Input, Loss, Model, Optimizer, Phase


def get_config() -> Config:
    return Config(
        global_batch=32,
        # Scans are 8x8 pixels and fill their frame: nothing is mirrored, and a small crop would cut strokes off. They
        # are enlarged 16 times because MobileNetV2 halves five times; on validation 32 pixels gave 94 %, 64 gave 98 %.
        input=Input(image_size=128, crop_area=(0.8, 1.0), flip=False, crop_fraction=1.0),
        # In 629 steps only fast moving averages arrive.
        model=Model(backbone="mobilenetv2", width=0.35, weights="none", batch_norm_momentum=0.9),
        # The average of some 50 steps: single batches of digits leave their marks.
        optimizer=Optimizer(name="sgd", peak_lr=0.1, weight_decay=5e-3, ema=0.98),
        loss=Loss(label_smoothing=0.1),
        phases=(Phase(epochs=14, warmup_epochs=2),),
        evaluate_every_epochs=2,
    )
