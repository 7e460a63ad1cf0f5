"""The door from Kubeflow Pipelines onto the steps.

`run`, `workplace`, `references` and `shown` are what a component's body calls inside its container; they
do not import kfp. `catalogue`, `packages` and `check` are what compiles the pipelines, and need it.
"""
