"""What the job script needs inside the environment; lies beside it, needs nothing else of the project.

    python sat_job.py settings JOB.yaml JOB.run NAME [FOLDER]   which checkpoint to go on from, as a YAML for --base
    python sat_job.py step FOLDER|JOB.run             the step of the newest whole checkpoint, 0 without one
    python sat_job.py sample sample_video.py --base …  upstream's program, unchanged
    python sat_job.py train train_video.py --base …   the same, with these additions to SAT's loop:

- SIGUSR1 (or SIGTERM): all ranks end the step that they are in, save, and end. SAT saves every save_interval only.
- Each checkpoint gets the optimizer's state (DeepSpeed's own files) and every rank's random state, so that a job which
  goes on computes what it would have computed. SAT saves weights alone. SATENV_JOB_STATE=no leaves this out; the two
  newest checkpoints keep theirs.
- An evaluation leaves the random state as it was.

JOB.run holds the run's folder, which SAT names by the minute. On machines without a GPU, SATENV_JOB_DEVICE=cpu answers
upstream's CUDA calls with the CPU (_sat_driver.py, beside this file).
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import sys
import threading
import zipfile
from pathlib import Path
from typing import Any

STATE = "satenv_rank_{:05d}_state.pt"
KEPT = 2  # checkpoints that keep the optimizer's state
_RUN, _STATE_OFF, _DEVICE, _PARTS = (f"SATENV_JOB_{name}" for name in ("RUN", "STATE", "DEVICE", "PARTS"))


# ---- checkpoints, by the standard library alone ----------------------------------------------------------------------
def is_whole(folder: Path) -> bool:
    """Tell whether all files of one checkpoint are archives of torch.save with their directory, which comes last."""
    files = sorted(folder.glob("mp_rank_*_model_states.pt"))
    return len(files) >= int(os.environ.get(_PARTS, "1")) and all(map(_is_archive, files))


def _is_archive(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("data.pkl") for name in archive.namelist())
    except (OSError, ValueError, zipfile.BadZipFile):
        return False


def whole_steps(run: Path) -> list[int]:
    """Return the steps of a run's whole checkpoints, oldest first. `500-ema` is a copy, not one to go on from."""
    try:
        names = [path.name for path in run.iterdir() if path.name.isdecimal() and int(path.name) > 0]
    except OSError:
        return []
    return sorted(int(name) for name in names if is_whole(run / name))


def run_of(path: Path) -> Path | None:
    """Return the run's folder that JOB.run names, or `path` itself when it is a folder."""
    if path.is_dir():
        return path
    try:
        return Path(path.read_text(encoding="utf-8").strip())
    except OSError:
        return None


def settings(target: Path, run_file: Path, name: str, folder: Path | None) -> str:
    """Write the last YAML of --base, and return in words how this start begins.

    Without a whole checkpoint of this job (or in `folder`, the run to go on from) the job begins as its YAMLs say.
    """
    run = run_of(run_file) if run_file.exists() else folder
    steps = whole_steps(run) if run else []
    args: dict[str, Any] = {"experiment_name": name}
    words = "from the beginning, as the YAMLs say"
    if run and steps:
        latest = run / "latest"
        saved = latest.read_text(encoding="utf-8").strip() if latest.is_file() else "nothing"
        if saved != str(steps[-1]):  # a save that was cut off
            _write(latest, str(steps[-1]))
            words = f"from step {steps[-1]} of {run} (`latest` said {saved})"
        else:
            words = f"from step {steps[-1]} of {run}"
        args = {
            "mode": "pretrain", "load": str(run), "save": str(run.parent), "no_load_rng": True, "force_train": True,
        }  # fmt: skip
        _write(run_file, f"{run}\n")
    elif folder:
        sys.exit(
            f"sat_job.py: {folder}: no whole checkpoint there; expected a run's folder, with numbered folders in it"
        )
    _write(target, json.dumps({"args": args}, indent=2) + "\n")  # JSON is YAML
    return words


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


# ---- in each rank ----------------------------------------------------------------------------------------------------
class Loop:
    """The additions to sat.training.deepspeed_training, whose functions are its module's names."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.asked = False  # by a signal
        self.stopping = False  # agreed on by all ranks
        self.pending: dict[str, Any] | None = None  # the random state to go on with
        self.own = {name: getattr(module, name) for name in ("train", "train_step", "save_checkpoint", "evaluate")}
        for name in self.own:
            setattr(module, name, getattr(self, name))
        for number in (signal.SIGUSR1, signal.SIGTERM):
            signal.signal(number, self.on_signal)

    def on_signal(self, number: int, frame: Any) -> None:
        """Remember it; the step that is going on is ended first."""
        self.asked = True

    def train(self, model: Any, optimizer: Any, lr_scheduler: Any, train_data: Any, *more: Any, **named: Any) -> Any:
        """Give the checkpoint's state back before SAT's loop begins, and tell the job where this run saves."""
        import torch.distributed as dist

        args = next(value for value in more if hasattr(value, "train_iters"))
        self.world = dist.get_world_size()
        place = [args.save]
        dist.broadcast_object_list(place, src=0)  # SAT names it by the minute, each rank by its own clock
        args.save = place[0]
        for loader in (train_data, more[0]):  # Slurm signals them, too; they end when their rank does
            if loader is not None:
                loader.worker_init_fn = _without_signals(loader.worker_init_fn)
        if args.save:
            args.save = os.path.abspath(args.save)
            os.makedirs(args.save, exist_ok=True)
            if dist.get_rank() == 0 and os.environ.get(_RUN):
                _write(Path(os.environ[_RUN]), f"{args.save}\n")
        if args.iteration > 0:
            self.go_on(model, optimizer, lr_scheduler, train_data, args)
        return self.own["train"](model, optimizer, lr_scheduler, train_data, *more, **named)

    def go_on(self, model: Any, optimizer: Any, lr_scheduler: Any, train_data: Any, args: Any) -> None:
        """Restore optimizer, learning rate and data position of step args.iteration; all ranks do, or none."""
        import torch
        import torch.distributed as dist
        from sat.helpers import print_rank0

        folder = Path(args.load, str(args.iteration))
        state = _load(folder / STATE.format(dist.get_rank())) if self.keeps(args) else None
        good = torch.tensor([int(state is not None and state["world"] == self.world)], device=_device(args))
        dist.all_reduce(good, op=dist.ReduceOp.MIN)
        if not isinstance(train_data.dataset, torch.utils.data.IterableDataset):  # a stream has no position
            sampler, position = train_data.batch_sampler, args.iteration % len(train_data)
            if hasattr(sampler, "start_iter"):
                sampler.start_iter = position
            else:  # one rank
                first = position * args.batch_size * (args.gradient_accumulation_steps or 1)
                sampler.sampler = range(first, len(train_data.dataset))
        if not good.item():
            print_rank0(
                f"sat_job.py: step {args.iteration} has no optimizer state of {self.world} ranks: weights alone"
            )
            return
        assert state is not None
        if model.zero_optimization() or "optimizer" not in state:
            model.loaded_checkpoint_dp_world_size = model.seq_dp_world_size
            if not model._load_zero_checkpoint(str(folder.parent), folder.name):
                sys.exit(
                    f"sat_job.py: {folder}: the optimizer's files can't be read; remove that folder to go on before it"
                )
        else:
            optimizer.load_state_dict(state["optimizer"])
        for name, value in state["scheduler"].items():
            setattr(lr_scheduler, name, value)
        lr_scheduler.step(lr_scheduler.num_iters)
        model.global_steps, model.global_samples, model.micro_steps = state["counters"]
        self.pending = state["random"]
        print_rank0(f"sat_job.py: optimizer, learning rate and random state of step {args.iteration} are back")

    def train_step(self, data: Any, model: Any, optimizer: Any, lr_scheduler: Any, args: Any, *more: Any, **named: Any):
        """Take SAT's step; after a signal to any rank the last one."""
        import torch
        import torch.distributed as dist
        from sat.helpers import print_rank0

        if self.pending is not None:  # the loaders, made by now, have drawn their seeds
            _set_random(self.pending)
            self.pending = None
        flag = torch.tensor([int(self.asked)], device=_device(args))
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        if flag.item() and not self.stopping:
            self.stopping = True
            if dist.get_rank() == 0 and os.environ.get(_RUN):
                Path(os.environ[_RUN]).with_suffix(".stopped").touch()  # for the script: SAT ends with 0 here
            print_rank0(f"sat_job.py: a signal: step {args.iteration + 1} is the last one, then save and end")
            args.save_interval = args.exit_interval = 1  # SAT's own way to save and to end, in that order
            args.eval_interval = None
        return self.own["train_step"](data, model, optimizer, lr_scheduler, args, *more, **named)

    def evaluate(self, *values: Any, **named: Any) -> Any:
        """Evaluate; training goes on as if it had not been."""
        before = _random()
        found = self.own["evaluate"](*values, **named)
        _set_random(before)
        return found

    def save_checkpoint(self, iteration: int, model: Any, optimizer: Any, lr_scheduler: Any, args: Any) -> None:
        """Save the state, then what SAT saves: its file `latest` comes last."""
        import torch
        import torch.distributed as dist

        if self.keeps(args):
            folder = Path(args.save, str(iteration))
            folder.mkdir(parents=True, exist_ok=True)
            names = ("init_step", "num_iters", "end_iter", "warmup_iter")
            state = {
                "world": self.world, "random": _random(),
                "scheduler": {name: getattr(lr_scheduler, name) for name in names},
                "counters": (model.global_steps, model.global_samples, model.micro_steps),
            }  # fmt: skip
            if hasattr(optimizer, "dp_process_group"):  # DeepSpeed's optimizers that are parted over the ranks
                model._save_zero_checkpoint(args.save, str(iteration))
            elif optimizer is not None:
                state["optimizer"] = optimizer.state_dict()
            target = folder / STATE.format(dist.get_rank())
            torch.save(state, f"{target}.part")
            os.replace(f"{target}.part", target)
            dist.barrier()
        self.own["save_checkpoint"](iteration, model, optimizer, lr_scheduler, args)
        if self.keeps(args) and dist.get_rank() == 0:
            for step in whole_steps(Path(args.save))[:-KEPT]:
                old = Path(args.save, str(step))
                for path in [*old.glob(STATE.replace("{:05d}", "*")), *old.glob("*_optim_states.pt")]:
                    path.unlink(missing_ok=True)

    @staticmethod
    def keeps(args: Any) -> bool:
        """Tell whether checkpoints get the optimizer's state."""
        return bool(args.save) and os.environ.get(_STATE_OFF) != "no"


def _without_signals(own: Any) -> Any:
    """Return what a worker of a data loader does first: it leaves the signals of others to its rank.

    torch lets it die of a SIGTERM, and the rank with it. The rank's own SIGTERM, at its end, still ends it.
    """

    def obey(rank: int) -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != rank:
            pass
        os._exit(0)

    def start(worker: int) -> None:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=obey, args=(os.getppid(),), daemon=True).start()
        if own is not None:
            own(worker)

    return start


def _device(args: Any) -> Any:
    return "cpu" if args.distributed_backend == "gloo" else args.device


def _load(path: Path) -> dict[str, Any] | None:
    import torch

    # such a file can run code when it is read: only one that this user wrote
    if not path.is_file() or path.stat().st_uid != os.getuid() or not _is_archive(path):
        return None
    found: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=False)
    return found


def _random() -> dict[str, Any]:
    import random

    import numpy
    import torch

    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    return {
        "python": random.getstate(),
        "numpy": numpy.random.get_state(),
        "torch": torch.get_rng_state(),
        "cuda": cuda,
    }


def _set_random(state: dict[str, Any]) -> None:
    import random

    import numpy
    import torch

    random.setstate(state["python"])
    numpy.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"])


def remove_stale_locks(folder: Path) -> None:
    """Remove the locks of compilations that were killed, which torch would wait for without an end.

    Whoever compiles has its lock open.
    """
    for lock in folder.glob("*/lock"):
        held = set()
        for link in Path("/proc").glob("[0-9]*/fd/*"):
            try:
                held.add(os.readlink(link))
            except OSError:  # of another user, who can't have made it, or gone by now
                continue
        if str(lock.resolve()) not in held:
            print(f"sat_job.py: {lock}: nobody compiles there any more; removed", file=sys.stderr, flush=True)
            lock.unlink(missing_ok=True)


def become(entry: str, words: list[str], training: bool) -> None:
    """Run upstream's program in this process, as `python ENTRY …` does."""
    sys.dont_write_bytecode = True
    sys.path[0] = str(Path(entry).resolve().parent)
    extensions = os.environ.get("TORCH_EXTENSIONS_DIR")
    if extensions and os.environ.get("LOCAL_RANK") == "0":
        remove_stale_locks(Path(extensions))
    if os.environ.get(_DEVICE) == "cpu":
        os.environ |= {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
        driver = runpy.run_path(str(Path(__file__).with_name("_sat_driver.py")), run_name="_sat_driver")
        sys.path.insert(0, str(Path(entry).resolve().parent))  # the driver takes the first one away
        driver["without_cuda"]()
    if training:
        from sat.training import deepspeed_training

        Loop(deepspeed_training)
    sys.argv = [entry, *words]
    runpy.run_path(entry, run_name="__main__")


def main() -> None:
    """Do what the first word says."""
    task, *words = sys.argv[1:]
    if task == "settings":
        target, run_file, name, *folder = words
        print(settings(Path(target), Path(run_file), name, Path(folder[0]) if folder and folder[0] else None))
    elif task == "step":
        run = run_of(Path(words[0]))
        print(([0, *whole_steps(run)] if run else [0])[-1])
    else:
        become(words[0], words[1:], task == "train")


if __name__ == "__main__":
    main()
