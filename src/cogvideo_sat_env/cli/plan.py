"""`satenv plan`."""

from __future__ import annotations

import click

from cogvideo_sat_env.cli.options import examples, show


@click.command(
    **examples("""
    satenv plan --model 2b --method lora                 one GPU, clips of 49 frames, 480x720
    satenv plan --model 5b --method full --gpus 8 --zero 2
    satenv plan --model 5b --batch 2 --json              for scripts
    """)
)
@click.option("--model", type=click.Choice(["2b", "5b"]), default="2b", show_default=True, help="CogVideoX-2B or -5B.")
@click.option("--method", type=click.Choice(["lora", "full"]), default="lora", show_default=True, help="What to train.")
@click.option("--gpus", type=int, default=1, show_default=True, help="GPUs, all nodes together.")
@click.option("--zero", type=int, default=2, show_default=True, help="DeepSpeed's ZeRO stage: 0, 1, 2 or 3.")
@click.option("--frames", type=int, default=49, show_default=True, help="Frames of a clip.")
@click.option("--height", type=int, default=480, show_default=True, help="Height in pixels.")
@click.option("--width", type=int, default=720, show_default=True, help="Width in pixels.")
@click.option("--batch", type=int, default=1, show_default=True, help="Clips a GPU.")
@click.option("--dtype", type=click.Choice(["bf16", "fp16", "fp32"]), help="Precision [default: upstream's].")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output; sizes in bytes.")
def plan(as_json, **setup) -> None:
    """Reckon the GPU memory that fine-tuning needs, as a range, and which GPUs have it."""
    from cogvideo_sat_env.doctor import gpu_memory

    show(gpu_memory.estimate(gpu_memory.TrainingSetup(**setup)), as_json)
