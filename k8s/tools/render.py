"""Renders each profile, and the manifests for `kubectl apply -k`. Committed, so that reviews show a change's effect."""

from pathlib import Path

import yaml

from k8s.tools.helm import template
from k8s.tools.values import CHART

PROFILES = tuple(sorted(path.stem for path in (CHART / "profiles").glob("*.yaml")))
MANIFESTS = "cpu-tiny"
# What is rendered without a cluster can keep no secret, and must not differ each time: its user makes the Secret.
KEY_SECRET = ("--set", "clusterKey.existingSecret=caracal-cluster-key")
_HEAD = "# Made by `make chart` from k8s/templates with {profile}; do not edit.\n"


def render_profile(profile: str, *arguments: str, helm: Path | None = None) -> str:
    """Renders one profile. Helm's comments stay: they name the template of each object."""
    return template("--values", str(CHART / "profiles" / f"{profile}.yaml"), *KEY_SECRET, *arguments, helm=helm)


def example(profile: str) -> str:
    return _HEAD.format(profile=f"profiles/{profile}.yaml") + render_profile(profile)


def manifests() -> str:
    """Renders the profile for `kubectl apply -k`: no tests, no labels of Helm, no namespace (kustomize sets it)."""
    text = render_profile(MANIFESTS, "--skip-tests")
    documents = [document for document in yaml.safe_load_all(text) if document]
    for document in documents:
        document["metadata"].pop("namespace")
        for subject in document.get("subjects", ()):
            subject.pop("namespace")
        labels = document["metadata"]["labels"]
        labels.pop("helm.sh/chart")
        labels.pop("app.kubernetes.io/managed-by")
    head = _HEAD.format(profile=f"profiles/{MANIFESTS}.yaml")
    return head + yaml.safe_dump_all(documents, sort_keys=False, width=120)
