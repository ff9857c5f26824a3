"""everynode's adapter of Kubernetes clusters."""

from everynode_kubernetes.adapter import KubernetesAdapter

__all__ = ["KubernetesAdapter"]
