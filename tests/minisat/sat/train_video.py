"""Training, as CogVideo starts it."""

import sys
from functools import partial

from arguments import get_args
from data_video import SFTDataset
from diffusion_video import Engine
from sat.training.deepspeed_training import training_main


def step(data, model, args, timers, **kwargs):
    batch = next(data)
    batch["mp4"] = batch["mp4"].cuda()
    return model.shared_step(batch)


if __name__ == "__main__":
    args = get_args(sys.argv[1:])
    training_main(
        args,
        model_cls=Engine,
        forward_step_function=step,
        create_dataset_function=partial(SFTDataset.create_dataset_function, **args.data_config["params"]),
    )
