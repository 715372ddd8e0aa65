"""The Helm chart's objects, rendered by Helm's own engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import helm_python
import yaml

from tools.jobs import ROOT

CHART = ROOT / "helm" / "market-data-pipeline"
RELEASE, NAMESPACE = "demo", "md"


def objects_of_kind(values: Mapping[str, Any], kind: str) -> list[dict[str, Any]]:
    """All objects of ``kind`` that a release with ``values`` has, hooks among them."""
    texts = helm_python.Chart.load(CHART).render(dict(values), name=RELEASE, namespace=NAMESPACE)
    documents = [one for name, text in texts.items() if name.endswith(".yaml") for one in yaml.safe_load_all(text)]
    return [one for one in documents if one and one["kind"] == kind]
