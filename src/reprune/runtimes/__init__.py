"""One module a runtime: a build of a bundle, and a session that runs it."""
