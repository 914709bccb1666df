"""Writes the PrometheusRules of the component prometheus-operator from deploy/prometheus/*.yaml.

Kustomize cannot put a file into a field of a custom resource, and rules that stand in two places
by hand would drift apart. Run it after a change of the rules:

    python deploy/kubernetes/write_prometheus_rule.py
"""

from __future__ import annotations

from pathlib import Path

_DEPLOY = Path(__file__).resolve().parents[1]
# A resource for each, since both may have groups of the same name.
_SOURCES = ("recording", "alerts")
PATH = _DEPLOY / "kubernetes" / "components" / "prometheus-operator" / "prometheus-rule.yaml"
_NOTE = "# Written by deploy/kubernetes/write_prometheus_rule.py from deploy/prometheus.\n"
_HEAD = """\
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: pairlens-{name}
  labels:
    app.kubernetes.io/name: pairlens
    app.kubernetes.io/component: server
spec:
  groups:
"""


def manifest() -> str:
    """The resources as YAML, comments of the rules included.

    Raises:
        ValueError: A file of rules does not begin with `groups:`.
    """
    return _NOTE + "---\n".join(
        _HEAD.format(name=name) + _groups(_DEPLOY / "prometheus" / f"{name}.yaml")
        for name in _SOURCES
    )


def _groups(path: Path) -> str:
    """The lines under `groups:`; as text, so that comments and folded expressions stay."""
    head, found, groups = path.read_text(encoding="utf-8").partition("\ngroups:\n")
    if not found or any(line and not line.startswith("#") for line in head.splitlines()):
        raise ValueError(f"{path.name}: comments and then groups: are expected")
    return "".join(f"  {line}".rstrip() + "\n" for line in groups.splitlines())


if __name__ == "__main__":
    PATH.write_text(manifest(), encoding="utf-8")
