"""A first site file, from what sinfo, scontrol, module, the file systems and this machine's interfaces say."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from cogvideo_sat_env.base.errors import InputError, PrefixError, SatenvError
from cogvideo_sat_env.base.files import write_atomically
from cogvideo_sat_env.cluster.slurm.site import schema_of_site
from cogvideo_sat_env.cluster.slurm.write_job import need
from cogvideo_sat_env.doctor.checks._mounts import kind_of
from cogvideo_sat_env.doctor.children import run_child

_LIMIT = 30.0  # seconds for one answer
_NETWORKS = Path("/sys/class/net")
_FAST = re.compile(r"(ib|hsn|opa|roce|mlx)\w*")
_ON_THE_NODE = ("SLURM_TMPDIR", "TMPDIR", "LOCAL_SCRATCH", "TMP_LOCAL")
_SHARED = ("SCRATCH", "WORK", "PROJECT", "WORKDIR")
_CUDA = re.compile(r"^(cuda|nvhpc|cudatoolkit|cuda-toolkit|gcc|openmpi)[^\s:]*$", re.IGNORECASE)


@dataclass(frozen=True)
class Partition:
    """A partition as sinfo lists it: its time limit, nodes, GPUs ("a100", 4) and features, most common ones."""

    name: str
    default: bool
    limit: str
    nodes: int
    gpu: str
    gpus: int
    features: str


def write_site(output: str, overwrite: bool) -> str:
    """Write the file, or return its text for "-" and /dev/stdout; return what to print.

    Raises MissingToolError without Slurm, InputError for a file that is there, SatenvError when Slurm doesn't answer.
    """
    need("sinfo", "on a login node of the cluster; docs/sites/ has site files to begin with")
    target = None if output in ("-", "/dev/stdout") else Path(os.path.expanduser(output))
    if target is not None and target.exists() and not overwrite:
        raise InputError(f"{target}: is there already", "--overwrite replaces it; --output FILE writes elsewhere")
    text = site_text(os.environ)
    if target is None:
        return text
    try:
        write_atomically(target, text.encode("utf-8"))
    except OSError as error:
        raise PrefixError(f"{target}: {error.strerror}; expected to write the site file", "--output FILE") from error
    known = sum(not line.startswith("#") and ":" in line for line in text.splitlines())
    return f"{target}: written; {known} lines are known, the comments are for you to fill in\n"


def site_text(environ: Mapping[str, str]) -> str:
    """Return a site file: a value where there is one, else a comment with what may be meant."""
    found = partitions()
    config = _config()
    lines = [
        "# A site file of satenv slurm: what is true of this cluster, whoever submits what. Written by asking Slurm,",
        f"# module and the file systems of {os.uname().nodename}; lines with # are for you to fill in.",
        "",
        _line("name", config.get("ClusterName"), "the cluster"),
        "",
        *_of_partition(_chosen(found), found),
    ]
    accounts = _accounts()
    lines.append(_line("account", accounts[0] if len(accounts) == 1 else None, ", ".join(accounts) or "your project"))
    if config.get("JobRequeue") == "0":
        lines += [
            "# JobRequeue=0: this Slurm requeues no job by itself; jobs that ask for it, as these do, can be requeued"
        ]
    lines += ["", *_modules(environ), "", *_interface(), "", *_file_systems(environ), "", *_proxies(environ), ""]
    lines += [
        "# signal_seconds: 300   # training saves and ends that long before the time limit: a step and a save fit in",
        "# root: /apps/sat   # the folder of deployed releases: jobs take the current one",
        "# stage: auto   # each node gets the release's image first (deploy --image)",
        "# variables: {NCCL_IB_HCA: mlx5}",
    ]
    return "\n".join(lines) + "\n"


def partitions() -> list[Partition]:
    """Return what sinfo lists. Raises SatenvError when it doesn't answer."""
    done = run_child(["sinfo", "--noheader", "--format=%P|%l|%D|%G|%f"], _LIMIT)
    if done.code != 0:
        words = done.problem or " ".join(done.stderr.split()) or "no reason given"
        raise SatenvError(f"sinfo: {words}; expected the partitions of the cluster", "try again when Slurm answers")
    found = []
    for line in done.stdout.splitlines():
        fields = line.strip().split("|")
        if len(fields) != 5 or not fields[2].isdigit():
            continue
        gpu = re.search(r"gpu(?::([^:(,\s]+))??:(\d+)", fields[3])
        features = "" if fields[4] in ("(null)", "") else fields[4]
        found.append(Partition(
            fields[0].rstrip("*"), fields[0].endswith("*"), fields[1], int(fields[2]), (gpu and gpu[1]) or "",
            int(gpu[2]) if gpu else 0, features,
        ))  # fmt: skip
    return found


def _chosen(found: list[Partition]) -> Partition | None:
    """Return the partition with most GPUs; where none has any, the default one."""
    with_gpus = [item for item in found if item.gpus]
    if with_gpus:
        return max(with_gpus, key=lambda item: (item.gpus * item.nodes, item.default))
    return next((item for item in found if item.default), found[0] if found else None)


def _of_partition(chosen: Partition | None, found: list[Partition]) -> Iterator[str]:
    for item in {(p.name, p.gpu, p.gpus): p for p in found}.values():
        gpus = f"{item.gpus} GPUs{f' ({item.gpu})' if item.gpu else ''} a node" if item.gpus else "no GPUs"
        features = f"; features: {item.features}" if item.features else ""
        yield f"# partition {item.name}: {item.nodes} nodes, {gpus}, time limit {item.limit}{features}"
    yield _line("partition", chosen.name if chosen else None, "gpu")
    limit = chosen.limit if chosen and re.fullmatch(r"[\d:-]+", chosen.limit) else None
    yield _line("time", limit, "24:00:00")
    yield _line("gpu_type", chosen.gpu if chosen and chosen.gpu else None, "a100")


def _config() -> dict[str, str]:
    done = run_child(["scontrol", "show", "config"], _LIMIT)
    return dict(re.findall(r"^(\w+)\s*= (.*?)\s*$", done.stdout, re.MULTILINE))


def _accounts() -> list[str]:
    """Return the user's accounts, none where there is no accounting."""
    user = os.environ.get("USER", str(os.getuid()))
    done = run_child(["sacctmgr", "-nP", "show", "assoc", f"user={user}", "format=account"], _LIMIT)
    return sorted(set(done.stdout.split())) if done.code == 0 else []


def _modules(environ: Mapping[str, str]) -> Iterator[str]:
    """Yield where `module` comes from, and modules that jobs of this kind load on some clusters."""
    inits = [
        Path(environ[name], "init", "bash") for name in ("LMOD_PKG", "MODULESHOME") if environ.get(name)
    ] + [Path("/usr/share/lmod/lmod/init/bash"), Path("/usr/share/modules/init/bash")]  # fmt: skip
    init = next((path for path in inits if path.is_file()), None)
    yield _line("module_init", str(init) if init else None, "/usr/share/lmod/lmod/init/bash")
    listed = []
    if init is not None:
        done = run_child(["bash", "-c", '. "$1" && module -t avail 2>&1', "bash", str(init)], _LIMIT)
        listed = sorted({name.strip() for name in done.stdout.splitlines() if _CUDA.match(name.strip())})
    seen = f"   # there are: {', '.join(listed[-12:])}" if listed else ""
    yield f"# modules: []   # none is needed: the environment brings its own CUDA, compiler and NCCL{seen}"


def _interface() -> Iterator[str]:
    try:
        names = sorted(path.name for path in _NETWORKS.iterdir())
    except OSError:
        names = []
    up = [name for name in names if name != "lo" and _is_up(name)]
    fast = [name for name in up if _FAST.fullmatch(name)]
    yield "# Without it each job takes the interface that leads from node to node. This machine, which may differ from"
    yield f"# a compute node, has: {', '.join(up) or 'none that is up'}"
    yield _line("interface", None, (fast or up or ["ib0"])[0])


def _is_up(name: str) -> bool:
    try:
        return (_NETWORKS / name / "operstate").read_text(encoding="utf-8").strip() in ("up", "unknown")
    except OSError:
        return False


def _file_systems(environ: Mapping[str, str]) -> Iterator[str]:
    """Yield shared scratch and the nodes' own disk, with the kind of file system that each is here."""
    user = environ.get("USER", "")
    shared = [f"${name}" for name in _SHARED if environ.get(name)]
    shared += [f"{base}/$USER" for base in ("/scratch", "/work") if user and Path(base, user).is_dir()]
    yield from _folder("scratch", shared, environ, True, "/scratch/$USER")
    own = [f"${name}" for name in _ON_THE_NODE if environ.get(name)]
    own += [base for base in ("/local", "/localscratch", "/tmp") if Path(base).is_dir()]
    yield from _folder("node_tmp", own, environ, False, "/tmp")


def _folder(key: str, offered: list[str], environ: Mapping[str, str], shared: bool, example: str) -> Iterator[str]:
    chosen = None
    for text in offered:
        path = Path(re.sub(r"\$(\w+)", lambda match: environ.get(match[1], ""), text))
        mount = kind_of(path)
        usable = path.is_dir() and os.access(path, os.W_OK)
        if mount is None or not usable:
            continue
        yield f"# {text} is {path}, {mount.kind}{', shared' if mount.is_shared else ''}"
        if chosen is None and mount.is_shared == shared:
            chosen = text
    yield _line(key, chosen, example)


def _proxies(environ: Mapping[str, str]) -> Iterator[str]:
    found = {}
    for key, name in (("http", "http_proxy"), ("https", "https_proxy"), ("no_proxy", "no_proxy")):
        value = environ.get(name) or environ.get(name.upper())
        if value and not re.search(r"://[^/@\s]*@", value) and not re.search(r"\s", value):
            found[key] = value
    if found:
        yield "proxies:"
        yield from (f"  {key}: {_scalar(value)}" for key, value in found.items())
    else:
        yield "# proxies: {http: 'http://proxy.example.org:3128', https: 'http://proxy.example.org:3128'}"


def _line(key: str, value: str | None, example: str) -> str:
    """Return `key: value` where the schema allows it, else a comment with an example."""
    pattern = schema_of_site()["properties"][key].get("pattern", "")
    if value and re.search(pattern, value):
        return f"{key}: {_scalar(value)}"
    return f"# {key}: {_scalar(example)}"


def _scalar(text: str) -> str:
    plain = re.fullmatch(r"[A-Za-z/$][\w/$.@-]*", text) and text not in ("yes", "no", "on", "off")
    return text if plain else json.dumps(text)
