"""CIFAR-10's first 10,000 training images, split 8,000 to 2,000; judged on the official test set of 10,000.

Data:     python -m preprocess --input=cifar10-10k-train --output=data --name=cifar10 \
              --splits=train=0.8,validation=0.2 --near_duplicates=ignore
          python -m preprocess --input=cifar10-test --output=data --name=cifar10_test --splits=test=1 \
              --near_duplicates=ignore
          (look-alikes, some 50 pairs, lie where chance put them, as in other people's figures for CIFAR-10)
Command:  python -m trainer train --config=configs/cifar10_mobilenetv2.py --data=data/cifar10/1.0.0 \
              --workdir=runs/cifar10
          python -m trainer evaluate --workdir=runs/cifar10 --data=data/cifar10_test/1.0.0 --split=test
          (with --config.model.weights=… where Keras can't download ImageNet's)
Hardware: two CPU cores, no accelerator
Time:     28 min 45 s to train, at about 60 images/s
Result:   83.64 % on the 10,000 official test images; on validation 80.05 % after 5 epochs, 82.25 % after 9 and 83.80 %
          at the end, so another half hour may be worth a point or two
"""

from configs.schema import Config, Input, Loss, Model, Optimizer, Phase


def get_config() -> Config:
    return Config(
        global_batch=64,
        # Enlarged four times: MobileNetV2 halves five times, so at 32 pixels one cell would be left of the picture.
        input=Input(image_size=128, crop_area=(0.5, 1.0), flip=True, crop_fraction=1.0),
        # The statistics have to follow from photos to enlarged thumbnails within 1,500 steps.
        model=Model(backbone="mobilenetv2", weights="imagenet", batch_norm_momentum=0.99),
        optimizer=Optimizer(name="adamw", peak_lr=1e-3, weight_decay=0.05),
        loss=Loss(label_smoothing=0.1),
        phases=(
            Phase(epochs=1, trainable="head"),
            Phase(epochs=12, trainable="all", lr_scale=0.2, warmup_epochs=1),
        ),
    )
