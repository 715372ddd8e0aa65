"""What the chart refuses to render, sentence by sentence."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from helm_python import HelmRenderError

from helm.render import CHART, objects, value_sets

MINIMAL = value_sets()["minimal"]
STREAMS = value_sets()["streams"]
KEDA = "{enabled: true, signal: coordinator}"

REFUSED = {
    "appName": ("app: {name: ''}", "app.name is empty: say which program runs,"),
    "appSource": (
        "app: {files: {bars.py: x}, existingConfigMap: bars}",
        "app.files and app.existingConfigMap are both given and would both be /app: give one of them.",
    ),
    "appFile": (
        "app: {name: '/app/bar.py:dag', files: {bars.py: x, feed.py: y}}",
        "app.name is /app/bar.py:dag, which is not in app.files: allowed are /app/ and one of bars.py, feed.py.",
    ),
    "jobName": ("job: {name: ''}", "job.name is empty: take what mdp keys APP --format helm prints (-f keys.yaml),"),
    "redisMissing": ("redis: {host: ''}", "No Redis is named: give redis.url (without password), redis.host,"),
    "redisTwice": (
        "redis: {url: 'redis://a', sentinel: {enabled: true, addresses: [b]}}",
        "redis.url and redis.host and redis.sentinel.enabled each name a server: give one of them.",
    ),
    "redisUrl": (
        "redis: {host: '', url: 'unix:///run/redis.sock'}",
        "redis.url is unix:///run/redis.sock: allowed are redis://host[:port][/db],",
    ),
    "redisUrl password": (
        "redis: {host: '', url: 'redis://mdp:secret@a:1/2'}",
        "redis.url holds a user or password, which everybody who may read the release could see:",
    ),
    "redisTls": (
        "redis: {tls: {caSecret: ca}}",
        "redis.tls.caSecret or redis.tls.clientSecret is given and TLS is off: set redis.tls.enabled,",
    ),
    "redisTls url": (
        "redis: {host: '', url: 'redis://a', tls: {enabled: true}}",
        "redis.tls.enabled is true and redis.url is plain text: write rediss:// or rediss+sentinel://.",
    ),
    "redisTls valkey": (
        "{redis: {host: '', existingSecret: '', tls: {enabled: true}, auth: {create: true, password: x}},"
        " valkey: {enabled: true}}",
        "redis.tls.enabled is true and the server of valkey.enabled has no TLS: leave one of them out.",
    ),
    "redisSecret": (
        "redis: {existingSecret: ''}",
        "No Secret for Redis is named: give redis.existingSecret, or say redis.auth.disabled",
    ),
    "redisSecretTwice": (
        "redis: {auth: {create: true, password: x}}",
        "redis.existingSecret and redis.auth.create contradict each other: give one of them.",
    ),
    "redisSecretTwice password": (
        "redis: {existingSecret: '', auth: {create: true}}",
        "redis.auth.create is true and redis.auth.password is empty: give a password.",
    ),
    "valkeyPassword": (
        "{redis: {host: '', existingSecret: '', auth: {disabled: true}}, valkey: {enabled: true}}",
        "valkey.enabled needs a password and redis.auth.disabled says that there is none:",
    ),
    "valkeyPassword user": (
        "{redis: {host: ''}, valkey: {enabled: true}}",
        "valkey.enabled has the default user only and redis names a user:",
    ),
    "sentinels": (
        "redis: {host: '', sentinel: {enabled: true}}",
        "redis.sentinel.enabled is true and redis.sentinel.addresses is empty: list the sentinels as host or host:port.",
    ),
    "levels": (
        "channel: {low: 0.8}",
        "channel.low is 0.8 and channel.high 0.75: low must be below high.",
    ),
    "replicas": (
        "workers: {replicas: 9}",
        "workers.replicas is 9 and job.partitions 8: a worker without a partition does nothing and is never ready,"
        " so at most 8 are allowed.",
    ),
    "replicas pinned": (
        "workers: {mode: pinned, replicas: 9}",
        "workers.replicas is 9 and job.partitions 8:",
    ),
    "pinnedAutoscaling": (
        f"{{workers: {{mode: pinned}}, autoscaling: {KEDA}}}",
        "workers.mode is pinned and autoscaling.enabled true: KEDA scales the Deployment of elastic workers,",
    ),
    "maxReplicas": (
        "autoscaling: {enabled: true, signal: coordinator, maxReplicas: 9}",
        "autoscaling.maxReplicas is 9 and job.partitions 8: a worker without a partition does nothing,"
        " so at most 8 are allowed.",
    ),
    "minReplicas": (
        "autoscaling: {enabled: true, signal: coordinator, minReplicas: 5}",
        "autoscaling.minReplicas is 5 and autoscaling.maxReplicas 4: min must not be above max.",
    ),
    "fallback": (
        "autoscaling: {enabled: true, signal: coordinator, fallback: {replicas: 5}}",
        "autoscaling.fallback.replicas is 5 and autoscaling.maxReplicas 4: the fallback must not be above max.",
    ),
    "scaleToZero": (
        "{job: {needsWorkers: [\"source 'feed' is read by a worker\", \"node 'bars' keeps open windows\"]},"
        " autoscaling: {enabled: true, signal: coordinator, minReplicas: 0}}",
        "autoscaling.minReplicas is 0 and the job would stop without workers (source 'feed' is read by a worker;"
        " node 'bars' keeps open windows): at least 1 is allowed, unless autoscaling.allowScaleToZero is true.",
    ),
    "streamsMissing": (
        "autoscaling: {enabled: true}",
        "autoscaling.signal reads stream lengths and job.streams is empty: take what mdp keys APP --format helm prints",
    ),
    "streamsForeign": (
        "job: {partitions: 2, streams: ['mdp:{bars:0}:q:a.b', 'mdp:{bars-2:0}:q:a.b']}",
        "job.streams holds mdp:{bars-2:0}:q:a.b, which is no stream of job bars: allowed are names such as"
        " mdp:{bars:0}:q:SOURCE.TARGET,",
    ),
    "streamsUneven": (
        "job: {partitions: 2, streams: ['mdp:{bars:0}:q:a.b']}",
        "job.streams has 1 names and job.partitions is 2: there is a stream for each edge and partition,",
    ),
    "stage": (
        "{job: {stages: [dedupe, join]}, autoscaling: {enabled: true, signal: coordinator, stage: bars}}",
        "autoscaling.stage is bars: allowed are dedupe, join.",
    ),
    "deployDeadline": (
        "deploy: {timeout: 5m}",
        "deploy.timeout is 5m and deploy.activeDeadlineSeconds 300: the Job would be ended in the middle of a drain",
    ),
    "kedaHost": (
        "{redis: {host: redis}, job: {partitions: 1, streams: ['mdp:{bars:0}:q:a.b']},"
        " autoscaling: {enabled: true, maxReplicas: 1, fallback: {replicas: 1}}, workers: {replicas: 1}}",
        "Redis is at redis, which KEDA would look for in its own namespace: write redis.NAMESPACE.svc,",
    ),
    "unreachable": (
        "autoscaling: {enabled: true, signal: coordinator, target: 97}",
        "autoscaling.target 97 x autoscaling.maxReplicas 4 = 388 frames can never wait, because backpressure holds"
        " 8 partitions x channel.capacity 64 x channel.high 0.75 = 384: a target of at most 96 is allowed.",
    ),
    "surge": (
        "workers: {replicas: 8, strategy: {maxSurge: 1}}",
        "workers.strategy.maxSurge 1 with maxUnavailable 0 needs a partition for each worker more than 8,",
    ),
    "surge none": (
        "workers: {strategy: {maxSurge: 0, maxUnavailable: 0}}",
        "workers.strategy.maxSurge and maxUnavailable are both 0",
    ),
    "surge by default": (
        "workers: {replicas: 8, strategy: {maxUnavailable: 0}}",
        "workers.strategy.maxSurge and maxUnavailable are both 0 (maxSurge by default where no partition is left",
    ),
    "workerGrace": (
        "workers: {terminationGracePeriodSeconds: 35}",
        "workers.terminationGracePeriodSeconds is 35 and preStopSeconds and longestCommitSeconds are 35 together:"
        " it must be longer, or a pod is killed within a commit.",
    ),
    "coordinatorGrace": (
        "coordinator: {terminationGracePeriodSeconds: 10}",
        "coordinator.terminationGracePeriodSeconds is 10 and preStopSeconds and longestCommitSeconds are 10 together:",
    ),
}


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """``base`` with the branches of ``over`` laid over it."""
    both = {**base, **over}
    for name in base.keys() & over.keys():
        if isinstance(base[name], dict) and isinstance(over[name], dict):
            both[name] = merged(base[name], over[name])
    return both


def refused(values: dict[str, Any]) -> list[str]:
    """The sentences with which the chart refuses ``values``."""
    with pytest.raises(HelmRenderError) as caught:
        objects(values)
    said = str(caught.value).splitlines()
    assert "refusals.yaml" in said[0]
    return said[1:]


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_one_sentence(name: str) -> None:
    text, sentence = REFUSED[name]
    (said,) = refused(merged(MINIMAL, yaml.safe_load(text)))
    assert said.startswith(sentence)
    assert said.endswith(".")


@pytest.mark.parametrize("name", ["unreachable", "maxReplicas", "scaleToZero", "surge"])
def test_the_allowed_neighbour_is_rendered(name: str) -> None:
    """One step away from a refusal there is none."""
    allowed = {
        "unreachable": "autoscaling: {enabled: true, signal: coordinator, target: 96}",
        "maxReplicas": "autoscaling: {enabled: true, signal: coordinator, maxReplicas: 8}",
        "scaleToZero": "autoscaling: {enabled: true, signal: coordinator, minReplicas: 0}",
        "surge": "workers: {replicas: 7, strategy: {maxSurge: 1}}",
    }
    assert objects(merged(MINIMAL, yaml.safe_load(allowed[name])))


def test_a_stage_is_for_the_coordinators_signal() -> None:
    (said,) = refused(merged(STREAMS, {"autoscaling": {"stage": "dedupe"}}))
    assert said.startswith("autoscaling.stage is dedupe and the signal is streams, which adds up all streams:")


def test_the_default_values_are_refused_for_all_that_is_missing() -> None:
    beginnings = ["app.name is empty", "job.name is empty", "No Redis is named"]
    assert [said[: len(wanted)] for said, wanted in zip(refused({}), beginnings, strict=True)] == beginnings


def test_every_refusal_is_asked_and_tested() -> None:
    text = (CHART / "templates" / "_refusals.tpl").read_text()
    defined = set(re.findall(r'define "mdp\.refuse\.(\w+)"', text))
    asked = re.findall(r'"(\w+)"', text[text.index("range list") : text.index("with include")])
    assert set(asked) == defined
    assert defined == {name.split()[0] for name in REFUSED}


def test_no_password_is_repeated() -> None:
    assert "secret@" not in " ".join(refused(merged(MINIMAL, yaml.safe_load(REFUSED["redisUrl password"][0]))))
