"""One folder a Kubeflow pipeline, wired from the components."""
