"""Flags and the environment in; which worker of which cluster this process is, or that it is none, out.

What is read, the first that applies:

- `--coordinator`, `--num_workers` and `--worker_index`;
- TF_CONFIG (https://www.tensorflow.org/guide/distributed_training#TF_CONFIG);
- COORDINATOR and NUM_WORKERS beside JOB_COMPLETION_INDEX, which Kubernetes sets in every pod of an Indexed Job
  (https://kubernetes.io/docs/tasks/job/indexed-parallel-processing-static/) and so of every JobSet. The coordinator's
  name is JOB-0.SERVICE (https://kubernetes.io/docs/tasks/job/job-with-pod-to-pod-communication/), for a JobSet
  JOBSET-REPLICATEDJOB-0-0.SUBDOMAIN
  (https://github.com/kubernetes-sigs/jobset/blob/main/site/static/examples/simple/jobset-with-network.yaml);
- SLURM_PROCID, SLURM_NTASKS and SLURM_STEP_NODELIST, which srun sets for every task
  (https://slurm.schedmd.com/srun.html#SECTION_OUTPUT-ENVIRONMENT-VARIABLES). Task 0 is on the first node.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from collections.abc import Mapping

from pipeline.errors import InputError

PORT = 2222  # TensorFlow's own examples have it
TF_CONFIG_EXAMPLE = '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}'
_KUBERNETES = ("JOB_COMPLETION_INDEX", "NUM_WORKERS", "COORDINATOR")
_SLURM = ("SLURM_PROCID", "SLURM_NTASKS")
_NODES = ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST")  # the first one that is set; sbatch itself sets the second


@dataclasses.dataclass(frozen=True)
class Worker:
    """A process's place among the workers of a cluster.

    Attributes:
      index: 0 is the chief, whom all others call.
      coordinator: HOST:PORT of worker 0.
      source: what said so, for messages.
      addresses: HOST:PORT of each worker where they are known beforehand, else none.
      host: how the others reach this one; None is the local address of its connection to worker 0, which itself is
        reached as `coordinator`.
    """

    index: int
    num_workers: int
    coordinator: str
    source: str
    addresses: tuple[str, ...] = ()
    host: str | None = None

    @property
    def known_address(self) -> str:
        """HOST:PORT of this worker, "" where it still has to choose one."""
        if self.addresses:
            return self.addresses[self.index]
        return self.coordinator if self.index == 0 else ""

    def __post_init__(self) -> None:
        if self.num_workers < 1:
            raise InputError(f"{self.source}: {self.num_workers} workers; expected at least 1")
        if not 0 <= self.index < self.num_workers:
            raise InputError(
                f"{self.source}: worker {self.index} of {self.num_workers}; expected 0 to {self.num_workers - 1}"
            )
        if self.host is not None and self.addresses:
            raise InputError(
                f"--worker_host={self.host}: this worker is at {self.known_address}, as {self.source} says"
            )


def find(
    environment: Mapping[str, str],
    *,
    coordinator: str | None = None,
    num_workers: int | None = None,
    worker_index: int | None = None,
    host: str | None = None,
) -> Worker | None:
    """This process's place; flags go before the environment, and `source` then says so.

    Returns:
      None where nothing names one.

    Raises:
      InputError: where what names one is incomplete or makes no sense.
    """
    in_environment = _named_in(environment)
    given = {"--coordinator": coordinator, "--num_workers": num_workers, "--worker_index": worker_index}
    if all(value is None for value in given.values()):
        found = _READERS[in_environment](environment) if in_environment else None
        return dataclasses.replace(found, host=host) if found else None
    if coordinator is None or num_workers is None or worker_index is None:
        missing = [name for name, value in given.items() if value is None]
        raise InputError(f"{', '.join(missing)} must be given too: {', '.join(given)} belong together")
    source = f"flags, which go before {in_environment}" if in_environment else "flags"
    return Worker(worker_index, num_workers, _address(coordinator, "--coordinator"), source, host=host)


def required(worker: Worker | None) -> Worker:
    """Raises InputError for None, and says what would name a place."""
    if worker is None:
        raise InputError(
            "--strategy=multi_worker: nothing says which worker this is; give --coordinator=HOST:PORT, --num_workers "
            f"and --worker_index, or set TF_CONFIG like {TF_CONFIG_EXAMPLE}, or start it as infra/README.md says"
        )
    return worker


def hosts(text: str) -> list[str]:
    """The host names of a SLURM node list in its order: `gpu[01-03,7],cpu2` is gpu01, gpu02, gpu03, gpu7 and cpu2.

    A range keeps the zeros of its beginning; brackets may repeat, as in `rack[1-2]-node[1-4]`, the last varying first
    (https://slurm.schedmd.com/sbatch.html#OPT_nodelist, `scontrol show hostnames` expands them as well).

    Raises:
      ValueError: where it is none.
    """
    found: list[str] = []
    for item in re.split(r",(?![^\[]*\])", text):
        if not re.fullmatch(r"([\w.-]|\[\d+(-\d+)?(,\d+(-\d+)?)*\])+", item, re.ASCII):
            raise ValueError(f"{item!r} is no node and no range of nodes")
        parts = re.findall(r"\[([^\]]*)\]|([^\[]+)", item)
        found += map("".join, itertools.product(*([plain] if plain else _ids(ids) for ids, plain in parts)))
    return found


def _ids(text: str) -> list[str]:
    found: list[str] = []
    for item in text.split(","):
        first, _, last = item.partition("-")
        numbers = range(int(first), int(last or first) + 1)
        if not numbers:
            raise ValueError(f"[{item}] begins behind its end")
        found += [str(number).zfill(len(first)) for number in numbers]
    return found


def _named_in(environment: Mapping[str, str]) -> str:
    """Which source the environment has, "" for none; incomplete ones count, so that they are refused and not passed."""
    if environment.get("TF_CONFIG"):
        return "TF_CONFIG"
    # Every Indexed Job has the index, and NUM_WORKERS alone may be anybody's; COORDINATOR only we set.
    index, count, coordinator = (name in environment for name in _KUBERNETES)
    if coordinator or (index and count):
        return "Kubernetes"
    return "SLURM" if all(name in environment for name in _SLURM) else ""


def _from_tf_config(environment: Mapping[str, str]) -> Worker:
    """A `chief` counts as worker 0."""
    text = environment["TF_CONFIG"]
    try:
        config = json.loads(text)
        jobs, task = config["cluster"], config["task"]
        chiefs, workers = ([*jobs.get(job, [])] for job in ("chief", "worker"))
        if jobs.keys() - {"chief", "worker"} or len(chiefs) > 1 or task["type"] not in jobs:
            raise ValueError("only workers and at most one chief can be there, and this task among them")
        index = _number(str(task["index"]), "index")
        if index >= len(jobs[task["type"]]):
            raise ValueError(f"task {task} is not in the cluster")
        addresses = tuple(_address(address, "an address") for address in [*chiefs, *workers])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"TF_CONFIG={text!r} can't be used ({type(error).__name__}: {error}); expected one like {TF_CONFIG_EXAMPLE}"
        ) from error
    index += len(chiefs) if task["type"] == "worker" else 0
    return Worker(index, len(addresses), addresses[0], "TF_CONFIG", addresses)


def _from_kubernetes(environment: Mapping[str, str]) -> Worker:
    if missing := [name for name in _KUBERNETES if name not in environment]:
        raise InputError(
            f"{', '.join(missing)} must be set too: {', '.join(_KUBERNETES)} belong together, the first one comes from "
            "completionMode: Indexed and the others from the manifest"
        )
    index, count = (_number(environment[name], name) for name in _KUBERNETES[:2])
    return Worker(index, count, _address(environment["COORDINATOR"], "COORDINATOR"), "Kubernetes")


def _from_slurm(environment: Mapping[str, str]) -> Worker:
    index, count = (_number(environment[name], name) for name in _SLURM)
    name = next((name for name in _NODES if environment.get(name)), None)
    if name is None:
        raise InputError(f"{' and '.join(_SLURM)} are set, but neither {' nor '.join(_NODES)}: start it with srun")
    try:
        first = hosts(environment[name])[0]
    except ValueError as error:
        raise InputError(f"{name}={environment[name]!r}: {error}; expected a list like gpu[01-03,7],cpu2") from error
    return Worker(index, count, f"{first}:{PORT}", "SLURM")


def port_of(address: str) -> int:
    """Of HOST:PORT."""
    return int(address.rpartition(":")[2])


_READERS = {"TF_CONFIG": _from_tf_config, "Kubernetes": _from_kubernetes, "SLURM": _from_slurm}


def _number(text: str, name: str) -> int:
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII):
        raise InputError(f"{name}={text!r}: expected a whole number")
    return int(text)


def _address(text: str, name: str) -> str:
    """`text` as HOST:PORT, with the default port where it has none."""
    match = re.fullmatch(r"([\w.-]+)(?::(\d{1,5}))?", text, re.ASCII)
    if not match or not 0 < int(match[2] or PORT) < 2**16:
        raise InputError(f"{name}={text!r}: expected HOST:PORT, a name or an IPv4 address and a port below 65536")
    return f"{match[1]}:{int(match[2] or PORT)}"
