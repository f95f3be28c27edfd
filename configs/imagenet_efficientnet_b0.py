"""ImageNet-1k with EfficientNet-B0: the published recipe, as far as the parts here go.

Command:  python -m trainer train --config=configs/imagenet_efficientnet_b0.py --data=data/imagenet/1.0.0 \
              --workdir=gs://BUCKET/runs/imagenet --strategy=tpu
Hardware: not run here
Time:     not run here
Result:   not run here; the paper reports 77.1 % top-1 (https://arxiv.org/abs/1905.11946v5, table 2)

From the paper, section 5.2: RMSProp with decay 0.9 and momentum 0.9, batch norm momentum 0.99, weight decay 1e-5,
dropout 0.2, an initial learning rate of 0.256. From the authors' code
(https://github.com/tensorflow/tpu/blob/master/models/official/efficientnet/main.py): 0.016 per 256 examples of batch,
so 0.256 belongs to 4,096; 350 epochs, 5 of them warmup; label smoothing 0.1; 224 pixels out of 256 at evaluation.

It differs from the recipe: the rate falls by a cosine, not by 0.97 every 2.4 epochs; weight decay is decoupled; and
AutoAugment, stochastic depth beyond Keras' own, and the average of weights are missing.
"""

from configs.schema import Config, Input, Loss, Model, Optimizer, Phase


def get_config() -> Config:
    return Config(
        global_batch=4096,
        precision="mixed_bfloat16",
        input=Input(image_size=224, crop_area=(0.08, 1.0), flip=True, crop_fraction=0.875),
        model=Model(backbone="efficientnet_b0", weights="none", dropout=0.2, batch_norm_momentum=0.99),
        optimizer=Optimizer(name="rmsprop", peak_lr=0.256, momentum=0.9, weight_decay=1e-5),
        loss=Loss(label_smoothing=0.1),
        phases=(Phase(epochs=350, warmup_epochs=5),),
        evaluate_every_epochs=5,
    )
