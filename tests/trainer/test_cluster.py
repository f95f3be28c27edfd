"""A process's place among the workers, from flags and from what TensorFlow, Kubernetes and SLURM set."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as drawn
from tensorflow.python.distribute.cluster_resolver.slurm_cluster_resolver import expand_hostlist

from pipeline.errors import InputError
from trainer import cluster

FLAGS = {"coordinator": "a:1", "num_workers": 3, "worker_index": 2}
KUBERNETES = {"JOB_COMPLETION_INDEX": "1", "NUM_WORKERS": "2", "COORDINATOR": "trainer-0.trainer:2222"}
SLURM = {"SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_JOB_NODELIST": "gpu[09-10,7],cpu2"}


def _tf_config(job: str, index: object, **jobs: list[str]) -> dict[str, str]:
    return {"TF_CONFIG": json.dumps({"cluster": jobs, "task": {"type": job, "index": index}})}


def test_nothing_names_no_place() -> None:
    assert cluster.find({}) is None
    assert cluster.find({"JOB_COMPLETION_INDEX": "0"}) is None  # every Indexed Job has it
    assert cluster.find({"NUM_WORKERS": "4"}) is None  # which may be anybody's
    assert cluster.find({"SLURM_PROCID": "0"}) is None  # a batch script without tasks
    with pytest.raises(InputError, match=r"--coordinator.*TF_CONFIG.*host0:2222"):
        cluster.required(None)


def test_flags_name_one() -> None:
    found = cluster.find({}, **FLAGS)
    assert found == cluster.Worker(2, 3, "a:1", "flags")
    assert cluster.required(found) is found
    assert cluster.find({}, coordinator="10.0.0.1", num_workers=1, worker_index=0).coordinator == "10.0.0.1:2222"


@pytest.mark.parametrize("name", FLAGS)
def test_flags_belong_together(name: str) -> None:
    with pytest.raises(InputError, match=f"--{name} must be given too"):
        cluster.find(KUBERNETES, **{**FLAGS, name: None})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"worker_index": 3}, "worker 3 of 3; expected 0 to 2"),
        ({"worker_index": -1}, "worker -1 of 3"),
        ({"num_workers": 0}, "0 workers; expected at least 1"),
        ({"coordinator": "a:b"}, "--coordinator='a:b': expected HOST:PORT"),
        ({"coordinator": "a:0"}, "--coordinator='a:0'"),
        ({"coordinator": "a:65536"}, "--coordinator='a:65536'"),
        ({"coordinator": ":1"}, "--coordinator=':1'"),
        ({"coordinator": "a b:1"}, "--coordinator='a b:1'"),
    ],
)
def test_impossible_flags_are_refused(changed: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        cluster.find({}, **{**FLAGS, **changed})


@pytest.mark.parametrize(
    ("environment", "source"),
    [(_tf_config("worker", 0, worker=["x:1"]), "TF_CONFIG"), (KUBERNETES, "Kubernetes"), (SLURM, "SLURM")],
)
def test_flags_go_before_the_environment_and_say_so(environment: dict[str, str], source: str) -> None:
    assert cluster.find(environment).source == source
    found = cluster.find(environment, **FLAGS)
    assert (found.coordinator, found.index, found.num_workers) == ("a:1", 2, 3)
    assert found.source == f"flags, which go before {source}"


def test_what_is_more_particular_goes_first() -> None:
    tf_config = _tf_config("worker", 0, worker=["x:1"])
    assert cluster.find({**SLURM, **KUBERNETES, **tf_config}).source == "TF_CONFIG"
    assert cluster.find({**SLURM, **KUBERNETES}).source == "Kubernetes"


def test_tf_configs_workers_count_from_zero_and_a_chief_comes_first() -> None:
    found = cluster.find(_tf_config("worker", 1, worker=["a:1", "b:2"]))
    assert found == cluster.Worker(1, 2, "a:1", "TF_CONFIG", ("a:1", "b:2"))
    assert found.known_address == "b:2"
    found = cluster.find(_tf_config("chief", 0, chief=["a:1"], worker=["b:1", "c:1"]))
    assert (found.index, found.num_workers, found.coordinator) == (0, 3, "a:1")
    found = cluster.find(_tf_config("worker", "1", chief=["a:1"], worker=["b:1", "c:1"]))
    assert (found.index, found.known_address) == (2, "c:1")


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        '{"cluster": {"worker": ["a:1"]}}',
        '{"cluster": {"worker": "a:1"}, "task": {"type": "worker", "index": 0}}',
        *(
            environment["TF_CONFIG"]
            for environment in (
                _tf_config("worker", 2, worker=["a:1", "b:1"]),
                _tf_config("worker", -1, worker=["a:1", "b:1"]),
                _tf_config("worker", 0.5, worker=["a:1", "b:1"]),
                _tf_config("worker", 0, worker=["a:1", "b:x"]),
                _tf_config("chief", 0, worker=["a:1"]),
                _tf_config("chief", 1, chief=["a:1", "b:1"]),
                _tf_config("ps", 0, worker=["a:1"], ps=["b:1"]),
                _tf_config("worker", 0, worker=[]),
            )
        ),
    ],
)
def test_any_other_tf_config_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InputError, match=r"TF_CONFIG=.* can't be used .*host0:2222") as error:
        cluster.find({"TF_CONFIG": text})
    assert "\n" not in str(error.value)


def test_a_pod_has_its_index_and_the_manifests_say_the_rest() -> None:
    assert cluster.find(KUBERNETES) == cluster.Worker(1, 2, "trainer-0.trainer:2222", "Kubernetes")
    named = cluster.find(KUBERNETES, host="10.0.0.9")
    assert (named.host, named.known_address) == ("10.0.0.9", "")
    with pytest.raises(InputError, match=r"--worker_host=b: this worker is at x:1, as TF_CONFIG says"):
        cluster.find(_tf_config("worker", 0, worker=["x:1"]), host="b")


@pytest.mark.parametrize("name", ["JOB_COMPLETION_INDEX", "NUM_WORKERS"])
def test_an_incomplete_manifest_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"{name} must be set too"):
        cluster.find({key: value for key, value in KUBERNETES.items() if key != name})
    with pytest.raises(InputError, match=f"{name}='two': expected a whole number"):
        cluster.find({**KUBERNETES, name: "two"})


def test_an_index_without_its_coordinator_is_refused() -> None:
    with pytest.raises(InputError, match="COORDINATOR must be set too"):
        cluster.find({"JOB_COMPLETION_INDEX": "0", "NUM_WORKERS": "2"})


def test_srun_names_the_first_node_of_its_step() -> None:
    assert cluster.find(SLURM) == cluster.Worker(3, 4, "gpu09:2222", "SLURM")
    assert cluster.find({**SLURM, "SLURM_STEP_NODELIST": "cpu2"}).coordinator == "cpu2:2222"
    with pytest.raises(InputError, match="start it with srun"):
        cluster.find({**SLURM, "SLURM_JOB_NODELIST": ""})
    with pytest.raises(InputError, match=r"SLURM_JOB_NODELIST='a\[1-': .* expected a list like"):
        cluster.find({**SLURM, "SLURM_JOB_NODELIST": "a[1-"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gpu[01-03,7],cpu2", ["gpu01", "gpu02", "gpu03", "gpu7", "cpu2"]),
        ("n[8-10]", ["n8", "n9", "n10"]),
        ("n[098-101]", ["n098", "n099", "n100", "n101"]),
        # https://www.nsc.liu.se/~kent/python-hostlist/ has this kind
        ("rack[01-02]-node[1,5]", ["rack01-node1", "rack01-node5", "rack02-node1", "rack02-node5"]),
        ("a[1-2].b", ["a1.b", "a2.b"]),
        ("localhost", ["localhost"]),
    ],
)
def test_node_lists_are_expanded(text: str, expected: list[str]) -> None:
    assert cluster.hosts(text) == expected


_PREFIX = drawn.from_regex(r"[a-z][a-z0-9-]{0,5}[a-z]", fullmatch=True)
_RANGE = drawn.tuples(drawn.integers(0, 120), drawn.integers(0, 12), drawn.integers(1, 4)).map(
    lambda drawn: f"{drawn[0]:0{drawn[2]}d}" + (f"-{drawn[0] + drawn[1]}" if drawn[1] else "")
)
_NODE = _PREFIX | drawn.builds("{}[{}]".format, _PREFIX, drawn.lists(_RANGE, min_size=1, max_size=4).map(",".join))


@given(drawn.lists(_NODE, min_size=1, max_size=4).map(",".join))
def test_node_lists_are_expanded_as_tensorflow_does(text: str) -> None:
    assert cluster.hosts(text) == expand_hostlist(text)


@pytest.mark.parametrize(
    "text", ["", ",", "a,", "a,,b", "a[", "a]", "a[]", "a[1-]", "a[-1]", "a[3-1]", "a[[1]]", "a b"]
)
def test_anything_else_is_no_node_list(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no node|behind its end"):
        cluster.hosts(text)
