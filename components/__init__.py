"""One folder a Kubeflow Pipelines component: a thin door onto a step of Reprune."""
