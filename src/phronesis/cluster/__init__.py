"""Past one machine: rollout workers, environment workers and a learner group as processes of a Ray cluster."""

from phronesis.cluster.hire import hiring
from phronesis.cluster.ray import LOCAL
from phronesis.cluster.scaling import Load, QueueScaler, Scaler

__all__ = ["LOCAL", "Load", "QueueScaler", "Scaler", "hiring"]
