"""Runs of Kubeflow Pipelines over plain HTTP (its API v2beta1): find, submit, watch, cancel.

    with an Endpoint          where the API is, as whom, and how patient
    check_parameters          what would be sent, against what the package declares
    find_runs, run_state      what is there
    submit_run                a new run, by a name that tells whether it exists already
    wait                      until a run has ended
    cancel_run

What a run decided is never read here: a blocked run and a crashed pod both say FAILED.
"""
