"""A training run that takes seconds on a CPU: the small checkout of tests/minisat with data, T5, VAE and YAMLs."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from cogvideo_sat_env.doctor.run_checks import PROBES
from cogvideo_sat_env.doctor.sat import checkout, configs, rules, shrink
from satcheckout import make_data, model, training, write_yaml

TREE = Path(__file__).parent / "minisat"
CAPTIONS = ("a boat on a river", "a red bird flies over the mountain")
_CLIPS = """
from pathlib import Path
import sys
sys.path.insert(0, sys.argv[1])
import _clips
for number in (1, 2, 3):
    _clips.write_clip(Path(sys.argv[2], "videos", f"{number}.mp4"), 80, 64)
"""


def make_run(prefix: Path, top: Path, **args: Any) -> tuple[Path, list[Path]]:
    """Make the checkout `top` with everything below it; return its sat/ and the YAMLs for --base.

    `args` go into the YAML's section of that name. Relative paths in it start in sat/, as upstream's do.
    """
    sat = top / "sat"
    shutil.copytree(TREE, top)
    make_data(sat / "clips")
    sections = model()
    sections["model"]["network_config"]["params"]["modules"].pop("lora_config")
    sections["model"].pop("not_trainable_prefixes")
    bases = [
        write_yaml(sat / "configs" / "model.yaml", sections),
        write_yaml(sat / "configs" / "sft.yaml", training()),
    ]
    run = rules.Run(checkout.find(top), configs.read(bases))
    small = shrink.shrunk(run, True, str(sat))
    small["args"] |= {"save": "ckpts", "experiment_name": "tiny", "mode": "finetune", "train_data": ["clips"]}
    small["args"] |= {"valid_data": ["clips"], "eval_interval": 1000} | args
    write_yaml(bases[0], {"model": small["model"]})
    write_yaml(bases[1], {name: small[name] for name in ("args", "data", "deepspeed")})
    asked = {"captions": CAPTIONS, "prompt": CAPTIONS[0], "vae": small["model"]["first_stage_config"]}
    request = sat / "prepare.json"
    request.write_text(json.dumps(asked), encoding="utf-8")
    python = str(prefix / "bin" / "python")
    subprocess.run([python, str(PROBES / "_sat_prepare.py"), str(sat), str(request)], check=True)
    subprocess.run([python, "-c", _CLIPS, str(PROBES), str(sat / "clips")], check=True)
    return sat, bases
