"""Why an engine takes no calls."""


class EngineClosed(RuntimeError):
    """The engine was closed before or while it was asked."""


class EngineAsleep(RuntimeError):
    """The engine was asked for tokens between `sleep` and `wake`."""
