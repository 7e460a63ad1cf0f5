"""`reprune serve`: a small ASGI service around the reconciler. No torch, no orchestrator's SDK.

    config       the one file it is started with
    signatures   who may wake it
    events       what a signed delivery says
    app          the routes; openapi says the same as data
    loop         one thread a watch: polls, is woken, backs off
    wiring       a watch's registry, project, and runs, as the reconciler wants them
    metrics, logs

An event only wakes a watch early. What is to be done is read from the registry, each time anew.
"""
