"""ImageNet-1k with EfficientNet-B0: the published recipe, as far as the parts here go.

Command:  python -m trainer train --config=configs/imagenet_efficientnet_b0.py --data=data/imagenet/1.0.0 \
              --workdir=gs://BUCKET/runs/imagenet --strategy=tpu
Hardware: not run here
Time:     not run here
Result:   not run here; the paper reports 77.1 % top-1 (https://arxiv.org/abs/1905.11946v5, table 2)

From the paper, section 5.2: RMSProp with decay 0.9 and momentum 0.9, batch norm momentum 0.99, weight decay 1e-5,
dropout 0.2, an initial learning rate of 0.256. From the authors' code
(https://github.com/tensorflow/tpu/blob/master/models/official/efficientnet/main.py): 0.016 per 256 examples of batch,
so 0.256 belongs to 4,096; times 0.97 every 2.4 epochs, 350 of them, 5 of those warmup; weights averaged with 0.9999;
label smoothing 0.1; stochastic depth up to 0.2; 224 pixels out of 256 at evaluation.

It differs from the recipe: RandAugment stands for AutoAugment, as in the authors' later results, and weight decay is
decoupled. Batch norm is each replica's own; the authors' TPU code normalises over groups of them.
"""

from configs.schema import Augment, Config, Input, Loss, Model, Optimizer, Phase


def get_config() -> Config:
    return Config(
        global_batch=4096,
        precision="mixed_bfloat16",
        steps_per_call=50,  # an epoch is 312 steps: a TPU waits for Python six times in it
        input=Input(image_size=224, crop_area=(0.08, 1.0), flip=True, crop_fraction=0.875),
        augment=Augment(policy="randaugment", num_ops=2, magnitude=9),
        model=Model(backbone="efficientnet_b0", dropout=0.2, drop_path=0.2, batch_norm_momentum=0.99),
        optimizer=Optimizer(name="rmsprop", peak_lr=0.256, momentum=0.9, weight_decay=1e-5, ema=0.9999),
        loss=Loss(label_smoothing=0.1),
        phases=(Phase(epochs=350, warmup_epochs=5, schedule="exponential", decay_rate=0.97, decay_epochs=2.4),),
        evaluate_every_epochs=5,
    )
