"""Queue experiments on a shared machine: the pipeline file, the client of `runnersd`, and the library scripts use."""

__version__ = "0.1.0"
